"""What an app finds in its environment. Pure; user variables win over SDK defaults, never over the platform's names."""

from __future__ import annotations

from collections.abc import Mapping

from control_plane.domain.hardware import Flavor
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Deployment, Repo, Space


def replica_environment(
    repo: Repo, space: Space, deployment: Deployment, flavor: Flavor, *, host: str, hub_endpoint: str, creator_id: str,
    variables: Mapping[str, str], secrets: Mapping[str, Sensitive], oauth: tuple[str, str] = ("", ""),
) -> dict[str, str | Sensitive]:  # fmt: skip
    """Everything by name. `host` is the public host with its port, without scheme; `oauth` the Space's own client id and secret."""
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
    if deployment.config.hf_oauth:
        client_id, client_secret = oauth
        scopes = dict.fromkeys(("openid", "profile", *deployment.config.hf_oauth_scopes))
        platform |= {
            "OAUTH_CLIENT_ID": client_id, "OAUTH_CLIENT_SECRET": Sensitive(client_secret), "OAUTH_SCOPES": " ".join(scopes),
            "OPENID_PROVIDER_URL": hub_endpoint,
        }  # fmt: skip
    return {**defaults, **variables, **secrets, **platform}
