"""Where MLflow keeps the record: finding the store, asking whether it answers, creating it once."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gstds.common.files import cache_root, locked, sha256

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


PROBE_SECONDS = 3.0
_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Retries of MLflow's own would hold a delivery for minutes: the uploader retries by itself.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]+@")
_SECRET_QUERY = re.compile(r"(?i)(?<=[?&])((?:password|passwd|token|secret|key)=)[^&\s'\"]+")
_ELSEWHERE = "by --tracking-uri or MLFLOW_TRACKING_URI"


def mask_secrets(text: str) -> str:
    """Replace ``user:password@`` in URIs, and secrets in their queries, by ``***``."""
    return _SECRET_QUERY.sub(r"\1***", _CREDENTIALS.sub("***@", text))


def reason_of(error: BaseException | str) -> str:
    """Return the first line of what an error says, without secrets."""
    return mask_secrets((str(error) or type(error).__name__).splitlines()[0])[:500]


def warner(logger: logging.Logger) -> Callable[[str], None]:
    """Return what logs a warning without its secrets, each one once."""
    return cache(lambda text: logger.warning("%s", mask_secrets(text)))


def equals(tag: str, value: str) -> str:
    """Return the search for the runs that have a tag of this value."""
    quote = '"' if "'" in value else "'"
    return f"tags.{tag} = {quote}{value}{quote}"


def prepare_environment() -> None:
    """Set MLflow's environment variables, each only if the user did not set it."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The uploader says once that a store is away; each retry of the library's is no news.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def tracking_uri(option: str | None = None) -> str:
    """Return the URI of the MLflow store.

    Args:
        option: What the command line says; wins if given.

    Returns:
        The option, else ``MLFLOW_TRACKING_URI``, else ``sqlite:///<working folder>/mlflow.db``.
        The path of a sqlite store is made absolute.
    """
    uri = option or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of a sqlite store's file; None for a store of another kind."""
    name = uri.removeprefix("sqlite:///")
    return None if name == uri else Path(os.path.abspath(os.path.expanduser(name)))


def uploads_folder(uri: str) -> Path:
    """Return where it stands what waits for a store: beside its file, or in the cache."""
    path = sqlite_path(uri)
    if path is not None:
        return path.with_name(f".{path.name}.uploads")
    return cache_root() / "uploads" / sha256(uri)[:16]


def client(uri: str) -> MlflowClient:
    """Return an MLflow client of the store at ``uri``; MLflow is imported here."""
    prepare_environment()
    from mlflow.tracking import MlflowClient

    # MLflow sets up its logger while it is imported.
    prepare_environment()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def store_exists(uri: str) -> bool:
    """Say whether there is a store, which for a server only asking it can tell; makes none."""
    path = sqlite_path(uri)
    return path is None or (path.is_file() and path.stat().st_size > 0)


def probe_store(uri: str) -> str:
    """Ask whether somebody answers at ``uri``, for at most three seconds.

    Returns:
        The kind of store: ``sqlite``, ``http``, ``sql`` (a database server) or ``other``.

    Raises:
        ConnectionError: If nobody answers.
        PermissionError: If the folder of a sqlite store cannot be written.
        ValueError: If the URI is of a kind that cannot be used.
    """
    scheme, path = urllib.parse.urlsplit(uri).scheme.split("+")[0], sqlite_path(uri)
    if path is not None:
        _check_sqlite(uri, path)
        return "sqlite"
    if scheme in ("http", "https"):
        _probe_http(uri)
        return "http"
    if scheme in _DEFAULT_PORTS:
        _probe_socket(uri, _DEFAULT_PORTS[scheme])
        return "sql"
    if scheme.startswith("databricks") or uri == "databricks":
        return "other"
    raise ValueError(
        f"tracking URI {mask_secrets(uri)!r} is of no kind that MLflow can write to; give "
        "sqlite:///PATH.db, http://HOST:PORT or postgresql://USER@HOST/DB"
    )


def _check_sqlite(uri: str, path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"tracking URI {uri!r} names a folder; name a file, as {uri}/mlflow.db")
    try:
        with tempfile.TemporaryFile(dir=next(p for p in path.parents if p.exists())):
            pass
    except OSError as error:
        raise PermissionError(
            f"tracking URI {uri!r}: cannot write to {path.parent} ({error.strerror}); "
            f"name another place {_ELSEWHERE}"
        ) from error


def _probe_http(uri: str) -> None:
    prepare_environment()
    import requests

    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure
    try:
        reply = requests.get(uri.rstrip("/") + "/health", timeout=PROBE_SECONDS, verify=verify)
    except ValueError as error:  # an address that is none, such as a port that is no number
        raise ValueError(f"tracking URI {mask_secrets(uri)!r} is no address: {error}") from None
    except requests.RequestException as error:
        raise _unreachable(uri, type(error).__name__) from None
    if reply.status_code >= 500:
        raise _unreachable(uri, f"it answers with status {reply.status_code}")


def _probe_socket(uri: str, default_port: int) -> None:
    parts = urllib.parse.urlsplit(uri)
    address = (parts.hostname or "localhost", parts.port or default_port)
    try:
        socket.create_connection(address, PROBE_SECONDS).close()
    except OSError as error:
        raise _unreachable(uri, error) from None


def _unreachable(uri: str, error: BaseException | str) -> ConnectionError:
    reason = reason_of(error)
    if sqlite_path(uri) is None:
        return ConnectionError(
            f"no MLflow store answers at {mask_secrets(uri)} ({reason}); start the server, give "
            f"another address {_ELSEWHERE} (sqlite:///mlflow.db needs no server), or begin without "
            "it by --offline"
        )
    mend = f"name another place {_ELSEWHERE}"
    if "disk" in reason:  # "disk is full", or "disk I/O error" at a quota
        mend = f"free some space, or {mend}"
    elif "already exists" in reason:
        mend = f"its making was cut short: delete that file, or {mend}"
    return ConnectionError(f"the MLflow store {uri} cannot be used ({reason}); {mend}")


def check_store(uri: str, experiment: str) -> str:
    """Refuse a store that cannot be used, before any work; makes nothing and imports no MLflow.

    Returns:
        The kind of store, as `probe_store` does.

    Raises:
        ConnectionError: If nobody answers at ``uri``.
        PermissionError: If the folder of a sqlite store cannot be written.
        ValueError: If the URI is of a kind that cannot be used, or the experiment has no name or
            was deleted.
    """
    if not experiment.strip():
        raise ValueError(f"experiment must be a name, got {experiment!r}")
    kind, path = probe_store(uri), sqlite_path(uri)
    if path is not None:
        query = "select experiment_id, lifecycle_stage from experiments where name = ?"
        address = f"file:{urllib.parse.quote(str(path))}?mode=ro"
        # What is wrong with the file, or that there is none, is the uploader's to tell.
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(address, timeout=1, uri=True)) as database,
        ):
            for number, stage in database.execute(query, (experiment,)):
                _refuse_deleted(uri, experiment, number, stage)
    return kind


def _refuse_deleted(uri: str, experiment: str, number: object, stage: str) -> None:
    if stage != "active":
        raise ValueError(
            f"experiment {experiment!r} (id {number}) was deleted in {mask_secrets(uri)}; "
            "restore it, or choose another name by --experiment"
        )


def prepare_store(uri: str, experiment: str = "gstds") -> str:
    """Make sure that the store answers and holds the experiment.

    A fresh database gets its schema here, under a file lock: two processes that create one at the
    same time break its migrations. A server is asked first whether it is there, for at most three
    seconds.

    Args:
        uri: As `tracking_uri` returns it.
        experiment: The experiment's name; it is created if it is missing.

    Returns:
        The experiment's id.

    Raises:
        ConnectionError: If nobody answers at ``uri``.
        PermissionError: If the folder of a sqlite store cannot be written.
        ValueError: If the URI is of a kind that cannot be used, or the experiment has no name or
            was deleted.
    """
    is_database = check_store(uri, experiment) in ("sqlite", "sql")
    path = sqlite_path(uri)
    lock = path.with_name(f".{path.name}.lock") if path else uploads_folder(uri) / "schema.lock"
    with locked(lock) if is_database else contextlib.nullcontext():
        try:
            if path is not None and not store_exists(uri):
                _make_schema(path)
            return _experiment_id(uri, experiment, path)
        except (ConnectionError, ValueError, PermissionError):
            raise
        except Exception as error:
            raise _unreachable(uri, error) from error


def _make_schema(path: Path) -> None:
    """Make a sqlite store that is not there yet, whole or not at all; the caller holds its lock.

    MLflow cannot mend a schema whose making was cut short, by a kill or a full disk, so it is made
    in a file beside the store and renamed: from a copy of what its migrations make, which take
    seconds, or by them if the copy is of another release.
    """
    from importlib.metadata import version

    new = path.with_name(f".{path.name}.new")
    schema = Path(__file__).with_name("mlflow_schema.sql").read_text()
    _remove_database(new)
    try:
        if schema.startswith(f"-- mlflow {version('mlflow')}\n"):
            with contextlib.closing(sqlite3.connect(new)) as database:
                database.executescript(schema)
        else:
            mlflow_client = client(f"sqlite:///{new}")
            mlflow_client.search_experiments(max_results=1)
            with contextlib.suppress(AttributeError):  # a private name; the file may stay open too
                mlflow_client._tracking_client.store.engine.dispose()
        os.replace(new, path)
    finally:
        _remove_database(new)


def _remove_database(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _experiment_id(uri: str, experiment: str, path: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    mlflow_client = client(uri)
    found = mlflow_client.get_experiment_by_name(experiment)
    if found is None:
        folder = urllib.parse.quote(experiment, safe="")
        artifacts = (path.parent / "mlruns" / folder).as_uri() if path else None
        with contextlib.suppress(MlflowException):  # somebody else may have created it just now
            mlflow_client.create_experiment(experiment, artifact_location=artifacts)
        found = mlflow_client.get_experiment_by_name(experiment)
    if found is None:
        raise _unreachable(uri, f"experiment {experiment!r} cannot be created")
    _refuse_deleted(uri, experiment, found.experiment_id, found.lifecycle_stage)
    return str(found.experiment_id)
