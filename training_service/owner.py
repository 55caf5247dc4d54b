"""Whose a run is: the record keeps the hash of the owner's key alone. Pure."""

import hmac
from hashlib import sha256

from training_service.request import TrainingRequest


def hash_key(key: str | None) -> str | None:
    """Return what is kept of an owner's key: its SHA-256, from which nobody gets the key back."""
    return None if key is None else sha256(key.encode()).hexdigest()


def without_key(request: TrainingRequest) -> TrainingRequest:
    """Return *request* as it may be written down and compared."""
    return request.model_copy(update={"owner_key": None})


def is_open_to(owner_sha256: str | None, key: str | None) -> bool:
    """Return whether one who says *key* may see and steer the run of that owner.

    A run without an owner is open to everybody. The comparison takes the same time whatever the key is.
    """
    if owner_sha256 is None:
        return True
    return hmac.compare_digest(owner_sha256, hash_key(key) or "")


def is_same_owner(owner_sha256: str | None, key: str | None) -> bool:
    """Return whether an order under *key* may be taken for one that was there before."""
    return hmac.compare_digest(owner_sha256 or "", hash_key(key) or "")
