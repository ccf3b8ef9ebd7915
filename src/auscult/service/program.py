"""From model files to a service that runs until it is stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from auscult.errors import AuscultError
from auscult.model import Model, load
from auscult.parallel import torch_threads
from auscult.service.settings import Limits, Tokens, add_token, check_address


def load_models(files: Sequence[Path]) -> dict[str, Model]:
    """Models by the names of their files.

    Raises
    ------
    AuscultError
        If one cannot be loaded, or two have the same name.
    """
    models: dict[str, Model] = {}
    for file in files:
        if file.stem in models:
            raise AuscultError(f"two models are called {file.stem}", "rename one of the files")
        models[file.stem] = load(file)
    return models


def run_new_token(path: Path | None, name: str) -> str:
    """Make a token and keep its hash.

    Raises
    ------
    AuscultError
        If no file is named, or it cannot be written.
    """
    if path is None:
        raise AuscultError("a token's hash is kept in a file, and none is named", "name one: --tokens FILE")
    return add_token(path, name)


def serve(
    models: dict[str, Model],
    *,
    host: str,
    port: int,
    history: Path | None = None,
    tokens: Tokens = Tokens(),
    limits: Limits = Limits(),
) -> None:
    """Serve until Ctrl-C.

    Raises
    ------
    AuscultError
        If the address is not of this computer alone and there is no token, or it is taken.
    """
    check_address(host, tokens)
    if not models and history is None:
        raise AuscultError("there is nothing to serve", "name a model file, or a history (--history FILE)")
    import socket

    try:
        import uvicorn

        from auscult.service.app import create_app
    except ImportError as error:
        raise AuscultError(f"{error.name} is missing", 'install it: pip install "auscult[service]"') from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise AuscultError(f"cannot listen on {host}:{port}: {reason}", "choose another --port") from error
        listening.listen(128)  # whoever reads the address and asks at once waits a moment, and need not try again
        config = uvicorn.Config(
            create_app(models, history=history, tokens=tokens, limits=limits),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=4 * limits.waiting,
            timeout_keep_alive=10,
            h11_max_incomplete_event_size=32 * 1024,
            ws_max_size=8 * 2**20,
            timeout_graceful_shutdown=5,
            proxy_headers=False,
        )
        print(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}", flush=True)
        with torch_threads(1), contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again at the end
            uvicorn.Server(config).run(sockets=[listening])
