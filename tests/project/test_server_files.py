"""The team server's compose file: what can be said of it where no container engine runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "mlflow"
TEXT = (FOLDER / "compose.yaml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]


def test_only_the_loopback_address_is_published():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_password_is_written_down_and_each_one_must_be_set():
    secrets = set(re.findall(r"\$\{((?:POSTGRES|S3)_\w+)", TEXT))
    assert secrets == {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
    for name in secrets:
        assert f"${{{name}:?" in TEXT, f"{name} may be empty"
        assert f"${{{name}:-" not in TEXT
        assert f"\n{name}=\n" in "\n" + (FOLDER / "env.example").read_text()


@pytest.mark.parametrize("name", ["database", "objects", "server"])
def test_what_stays_up_has_a_health_check_and_a_pinned_image(name):
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    if "image" in service:
        assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"])
    else:
        assert "mlflow==" in service["build"]["dockerfile_inline"]


def test_what_is_waited_for_is_there():
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            healthy = condition["condition"] == "service_healthy"
            assert other in SERVICES, name
            assert "healthcheck" in SERVICES[other] or not healthy


def test_the_folder_never_shadows_the_library():
    assert not list(FOLDER.rglob("*.py"))
