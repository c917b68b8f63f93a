"""`make bench-relay` and `make bench-notify`: relayd, notifyd and their peers on real servers."""
