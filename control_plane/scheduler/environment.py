"""What an app finds in its environment. Pure; user variables win over SDK defaults, never over the platform's names."""

from __future__ import annotations

from collections.abc import Mapping

from control_plane.domain.hardware import Flavor
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Deployment, Repo, Space


def replica_environment(
    repo: Repo, space: Space, deployment: Deployment, flavor: Flavor, *, host: str, hub_endpoint: str, creator_id: str,
    variables: Mapping[str, str], secrets: Mapping[str, Sensitive],
) -> dict[str, str | Sensitive]:  # fmt: skip
    """Names of contract.md section 5 and hub-api.md 5.8. `host` is the public host with its port, without scheme."""
    port = str(deployment.launch.port)
    defaults: dict[str, str | Sensitive] = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ALLOW_FLAGGING": "never",
        "GRADIO_NUM_PORTS": "1",
        "STREAMLIT_SERVER_HEADLESS": "true",
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
        "PYTHONUNBUFFERED": "1",
        **deployment.launch.env,
    }
    platform: dict[str, str | Sensitive] = {
        "SYSTEM": "spaces",
        "SPACE_ID": repo.full_name,
        "SPACE_AUTHOR_NAME": repo.owner_name,
        "SPACE_REPO_NAME": repo.name,
        "SPACE_TITLE": deployment.config.title or repo.name,
        "SPACE_HOST": host,
        "SPACE_CREATOR_USER_ID": creator_id,
        "ACCELERATOR": f"{flavor.gpu_count}x{flavor.accelerator.model}" if flavor.accelerator else "none",
        "CPU_CORES": f"{flavor.vcpu:g}",
        "MEMORY": f"{flavor.memory_gb:g}Gi",
        "HF_ENDPOINT": hub_endpoint,
        "HF_HOME": "/home/user/.cache/huggingface",
        "PORT": port,
        "GRADIO_SERVER_NAME": "0.0.0.0",  # inside its own network namespace
        "GRADIO_SERVER_PORT": port,
        "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
        "STREAMLIT_SERVER_PORT": port,
    }
    return {**defaults, **variables, **secrets, **platform}
