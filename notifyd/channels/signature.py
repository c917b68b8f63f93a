"""Standard Webhooks signatures, symmetric (v1).

Source: Standard Webhooks specification, "Signature scheme": HMAC-SHA256 over `id.timestamp.body`.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of every secret, not one
# The specification asks for 24 to 64 bytes.
KEY_BYTES = range(24, 65)


def signing_key(secret: str) -> bytes:
    """The key in a `whsec_…` secret. Raises ValueError, whose text never repeats the secret."""
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"does not start with {SECRET_PREFIX}")
    text = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        # `from None`: the cause could quote a part of the secret.
        raise ValueError(f"is not base64 after {SECRET_PREFIX}") from None
    if len(key) not in KEY_BYTES:
        raise ValueError(f"has {len(key)} bytes; it takes 24 to 64")
    return key


def signature(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1,…` for each key, so that keys can be rotated."""
    content = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.new(key, content, hashlib.sha256).digest() for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
