"""What routes need of the catalogue, as a dependency."""

from typing import Annotated

from fastapi import Depends, Request

from app.models.catalog import Catalog


async def current_catalog(request: Request) -> Catalog:
    """The application's catalogue of base models."""
    return request.app.state.catalog


CurrentCatalog = Annotated[Catalog, Depends(current_catalog)]
