"""Where the bytes of an archive came from: the sentence that follows every result."""

from __future__ import annotations

# Copies that are known by their contents (`archive.fingerprint`), whatever the file is called.
# They are marked because a model scores differently on them than on the official images.
_KNOWN = {
    "2f90f9abf0cfab7a7901576953461cd0f544ee64e6efa523effcfe056e612f91": "cifar10 (JPEG copy)",
    "6b3581ba2d1e2690732d5fe252e30e240a065732cd95548a9e7686bfcccbc38a": "gtsrb (ROI, JPEG copy)",
}


def describe(fingerprint: str, stored: str | None, name: str, file_name: str) -> str:
    """One line such as "cifar10 (JPEG copy), sha256 0123456789ab".

    What the contents are known to be comes first, else what the archive says about itself (its
    array `source`), else the name of the file. The first twelve digits of the SHA-256 of the
    arrays are always there, so that two results can be seen to rest on the same images.
    """
    origin = _KNOWN.get(fingerprint) or _one_line(stored) or f"{name} (npz {file_name})"
    return f"{origin}, sha256 {fingerprint[:12]}"


def _one_line(text: str | None) -> str:
    """At most 200 printable characters: the text is shown in tables and written into records."""
    return "".join(c for c in (text or "") if c.isprintable()).strip()[:200]
