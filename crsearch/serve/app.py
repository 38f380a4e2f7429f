"""The application of a served run: its JSON routes, its pages, and what stands before them.

Source: details: this project (docs/serving.md).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from crsearch import __version__
from crsearch.serve.config import ServeConfig
from crsearch.serve.openapi import describe
from crsearch.serve.pages import pages_router
from crsearch.serve.routes import json_routers
from crsearch.serve.security import harden, needs
from crsearch.serve.seen import access_log
from crsearch.serve.service import SearchService


def create_app(service: SearchService, config: ServeConfig) -> FastAPI:
    """The application of a served run; starting it starts the service, stopping it drains it."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(service.start())  # /livez answers meanwhile
        starting.add_done_callback(service.started)
        yield
        await service.stop()

    app = FastAPI(
        title="crsearch", version=__version__, lifespan=life, docs_url=None, redoc_url=None, openapi_url=None,
        description="Search that reads the whole context, thinks, and ranks.",
    )  # fmt: skip
    app.state.service = service
    for router in (*json_routers(service, config), pages_router(service, config)):
        app.router.routes += router.routes  # on the application itself: harden looks at each

    @app.get("/openapi.json", include_in_schema=False)
    @needs("search")
    async def openapi() -> JSONResponse:
        return JSONResponse(describe(app))

    harden(
        app,
        config,
        watchers=(access_log, service.metrics.request),
        gate=service.searches.gate,
        is_full=lambda: service.searches.is_full,
    )
    return app
