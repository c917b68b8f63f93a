"""What the three daemons agree on; imports none of them."""
