"""The Content-Disposition of a download: always a file to save, under its own name.

Source: RFC 6266, 4 and appendix D, and RFC 8187, 3.2.
"""

from urllib.parse import quote

# RFC 8187's attr-char, beyond letters and digits; quote() leaves ~ - . _ alone by itself.
ATTRIBUTE_CHARACTERS = "!#$&+^`|"
# In the form for old clients: % because some decode it, quotes and backslashes because of quoting.
PLAIN = frozenset(chr(code) for code in range(0x20, 0x7F)) - frozenset('%"\\')


def content_disposition(name: str) -> str:
    """ASCII for whatever name there is. `filename` is what a client shows that does not know
    `filename*`; it is there with every name, with _ for what it cannot hold."""
    plain = "".join(character if character in PLAIN else "_" for character in name)
    encoded = quote(name, safe=ATTRIBUTE_CHARACTERS)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
