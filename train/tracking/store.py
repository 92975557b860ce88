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
from pathlib import Path
from typing import TYPE_CHECKING

from gstds.common.files import locked, sha256

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

__all__ = [
    "check_store",
    "client",
    "mask_secrets",
    "prepare_environment",
    "prepare_store",
    "probe_store",
    "sqlite_path",
    "store_exists",
    "tracking_uri",
]

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


def mask_secrets(text: str) -> str:
    """Replace ``user:password@`` in URIs, and secrets in their queries, by ``***``."""
    return _SECRET_QUERY.sub(r"\1***", _CREDENTIALS.sub("***@", text))


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


def client(uri: str) -> MlflowClient:
    """Return an MLflow client of the store at ``uri``; MLflow is imported here."""
    prepare_environment()
    from mlflow.tracking import MlflowClient

    # MLflow sets up its logger while it is imported.
    prepare_environment()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def probe_store(uri: str) -> str:
    """Ask whether somebody answers at ``uri``, for at most three seconds.

    Returns:
        The kind of store: ``sqlite``, ``http``, ``sql`` (a database server) or ``other``.

    Raises:
        ConnectionError: If nobody answers.
        PermissionError: If the folder of a sqlite store cannot be written.
        ValueError: If the URI is of a kind that cannot be used.
    """
    kind = _check_kind(uri)
    if kind == "http":
        _probe_http(uri)
    elif kind == "sql":
        _probe_socket(uri)
    return kind


def store_exists(uri: str) -> bool:
    """Say whether there is a store, which for a server only asking it can tell; makes none."""
    path = sqlite_path(uri)
    return path is None or (path.is_file() and path.stat().st_size > 0)


def check_store(uri: str, experiment: str) -> None:
    """Refuse a store that cannot be used, before any work; makes nothing and imports no MLflow.

    Raises:
        ConnectionError: If nobody answers at ``uri``.
        PermissionError: If the folder of a sqlite store cannot be written.
        ValueError: If the URI is of a kind that cannot be used, or the experiment has no name or
            was deleted.
    """
    if not experiment.strip():
        raise ValueError(f"experiment must be a name, got {experiment!r}")
    probe_store(uri)
    path = sqlite_path(uri)
    if path is not None and store_exists(uri):
        query = "select experiment_id, lifecycle_stage from experiments where name = ?"
        # What is wrong with the file, or another schema, is the uploader's to tell.
        with contextlib.suppress(sqlite3.Error):
            address = f"file:{urllib.parse.quote(str(path))}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, timeout=1, uri=True)) as database:
                for number, stage in database.execute(query, (experiment,)).fetchall():
                    _refuse_deleted(uri, experiment, number, stage)


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
    if not experiment.strip():
        raise ValueError(f"experiment must be a name, got {experiment!r}")
    kind = probe_store(uri)
    with locked(_lock_path(uri)) if kind in ("sqlite", "sql") else contextlib.nullcontext():
        try:
            _make_schema(uri)
            return _experiment_id(uri, experiment)
        except (ConnectionError, ValueError, PermissionError):
            raise
        except Exception as error:
            raise ConnectionError(_unreachable(uri, error)) from error


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of a sqlite store's file; None for a store of another kind."""
    if not uri.startswith("sqlite:///"):
        return None
    name = uri.removeprefix("sqlite:///")
    return Path(os.path.abspath(os.path.expanduser(name)))


def _check_kind(uri: str) -> str:
    scheme = urllib.parse.urlsplit(uri).scheme.split("+")[0]
    if scheme in ("http", "https"):
        return "http"
    if scheme in _DEFAULT_PORTS:
        return "sql"
    if scheme.startswith("databricks") or uri == "databricks":
        return "other"
    path = sqlite_path(uri)
    if path is None:
        raise ValueError(
            f"tracking URI {mask_secrets(uri)!r} is of no kind that MLflow can write to; give "
            "sqlite:///PATH.db, http://HOST:PORT or postgresql://USER@HOST/DB"
        )
    _check_sqlite(uri, path)
    return "sqlite"


def _check_sqlite(uri: str, path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"tracking URI {uri!r} names a folder; name a file, as {uri}/mlflow.db")
    there = next(folder for folder in (path.parent, *path.parent.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise PermissionError(
            f"tracking URI {uri!r}: cannot write to {path.parent} ({error.strerror}); "
            "name another place by --tracking-uri or MLFLOW_TRACKING_URI"
        ) from error


def _lock_path(uri: str) -> Path:
    path = sqlite_path(uri)
    if path is not None:
        return path.with_name(f".{path.name}.lock")
    digest = sha256(uri)[:16]
    return Path(tempfile.gettempdir()) / f"gstds-store-{digest}.lock"


def _make_schema(uri: str) -> None:
    """Make a sqlite store that is not there yet, whole or not at all; the caller holds its lock.

    MLflow cannot mend a schema whose making was cut short, by a kill or a full disk, so it is made
    in a file beside the store and renamed.
    """
    path = sqlite_path(uri)
    if path is None or (path.exists() and path.stat().st_size):
        return
    new = path.with_name(f".{path.name}.new")
    _remove_database(new)
    try:
        if not _fill_from_template(new):
            mlflow_client = client(f"sqlite:///{new}")
            mlflow_client.search_experiments(max_results=1)
            with contextlib.suppress(AttributeError):  # a private name; the file may stay open too
                mlflow_client._tracking_client.store.engine.dispose()
        os.replace(new, path)
    finally:
        _remove_database(new)


def _fill_from_template(path: Path) -> bool:
    """Make MLflow's tables from a copy of what its migrations make, which take seconds.

    Returns:
        Whether the copy is of the release that is installed.
    """
    schema = Path(__file__).with_name("mlflow_schema.sql").read_text()
    from importlib.metadata import version

    if schema.splitlines()[0] != f"-- mlflow {version('mlflow')}":
        return False
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(schema)
    return True


def _remove_database(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _unreachable(uri: str, error: BaseException | str) -> str:
    if sqlite_path(uri):
        return _unusable(uri, str(error).splitlines()[0][:300])
    return mask_secrets(
        f"no MLflow store answers at {uri} ({str(error).splitlines()[0][:300]}); start the server, "
        "give another address by --tracking-uri or MLFLOW_TRACKING_URI (sqlite:///mlflow.db needs "
        "no server), or begin without it by --offline"
    )


def _unusable(uri: str, reason: str) -> str:
    mend = "name another place by --tracking-uri or MLFLOW_TRACKING_URI"
    if "disk" in reason:  # "disk is full", or "disk I/O error" at a quota
        mend = f"free some space, or {mend}"
    elif "already exists" in reason:
        mend = f"its making was cut short: delete that file, or {mend}"
    return f"the MLflow store {uri} cannot be used ({reason}); {mend}"


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
        raise ConnectionError(_unreachable(uri, type(error).__name__)) from None
    if reply.status_code >= 500:
        raise ConnectionError(_unreachable(uri, f"it answers with status {reply.status_code}"))


def _probe_socket(uri: str) -> None:
    parts = urllib.parse.urlsplit(uri)
    port = parts.port or _DEFAULT_PORTS[parts.scheme.split("+")[0]]
    try:
        socket.create_connection((parts.hostname or "localhost", port), PROBE_SECONDS).close()
    except OSError as error:
        raise ConnectionError(_unreachable(uri, error)) from None


def _experiment_id(uri: str, experiment: str) -> str:
    mlflow_client = client(uri)
    found = mlflow_client.get_experiment_by_name(experiment)
    if found is None:
        found = _create_experiment(mlflow_client, uri, experiment)
    _refuse_deleted(uri, experiment, found.experiment_id, found.lifecycle_stage)
    return str(found.experiment_id)


def _create_experiment(mlflow_client: MlflowClient, uri: str, experiment: str) -> Experiment:
    from mlflow.exceptions import MlflowException

    path = sqlite_path(uri)
    location = None
    if path is not None:
        folder = urllib.parse.quote(experiment, safe="")
        location = (path.parent / "mlruns" / folder).as_uri()
    # Somebody else may have created it since we looked.
    with contextlib.suppress(MlflowException):
        return mlflow_client.get_experiment(
            mlflow_client.create_experiment(experiment, artifact_location=location)
        )
    found = mlflow_client.get_experiment_by_name(experiment)
    if found is None:
        raise ConnectionError(_unreachable(uri, f"experiment {experiment!r} cannot be created"))
    return found
