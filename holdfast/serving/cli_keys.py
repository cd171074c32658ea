"""`holdfast keys`: the operator's key file, and the rotation of what it protects."""

from __future__ import annotations

from holdfast.errors import InvalidInput
from holdfast.privacy.key_providers import add_key_to_file
from holdfast.serving.api_keys import DEFAULT_TENANT
from holdfast.serving.config import Settings
from holdfast.serving.service import Service
from holdfast.serving.untrusted import make_key_providers
from holdfast.serving.vector_store import find_store

Lines = list[str]


def create_key(settings: Settings) -> str:
    """Add a key to the key file; return its public name."""
    if settings.key_file is None:
        raise InvalidInput("say where: --key-file FILE", param="key_file")
    return add_key_to_file(settings.key_file).key_id


def rotate(service: Service, vector_store_id: str | None) -> Lines:
    """Rotate one vector store of the default tenant, or every tenant's root; return what was done, for people."""
    if vector_store_id is not None:
        row = find_store(service.database.read(), DEFAULT_TENANT, vector_store_id)
        if service.sealed.find(row["position"]) is None:
            raise InvalidInput(f"vector store {vector_store_id!r} is plain: it has no keys", param="store")
        return [f"{vector_store_id}: epoch {service.sealed.rotate(row['position'])}"]
    providers = make_key_providers(service.settings)
    if not providers:
        raise InvalidInput("say where the keys are: --key-file FILE or --key-provider ADDRESS", param="key_file")
    newest = providers[-1]
    return [f"{tenant}: root {service.sealed.rotate_root(tenant, newest)}" for tenant in service.sealed.tenants()]
