"""Small apps that work as they are: what "begin with a small working app" commits beside the README."""

from __future__ import annotations

from control_plane.domain.spaces import Sdk

_GRADIO = """import gradio as gr


def greet(name: str) -> str:
    return f"Hello {name}!"


gr.Interface(greet, gr.Textbox(label="Your name"), gr.Textbox(label="Greeting")).launch()
"""

_STREAMLIT = """import streamlit as st

st.title("Hello")
name = st.text_input("Your name")
if name:
    st.write(f"Hello {name}!")
"""

_DOCKERFILE = """FROM python:3.12-slim
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
COPY --chown=user . .
CMD ["python", "-m", "http.server", "7860"]
"""


def starter_app(sdk: Sdk) -> dict[str, bytes] | None:
    """Files by path; None where the SDK's first commit works already."""
    files: dict[Sdk, dict[str, str]] = {
        Sdk.GRADIO: {"app.py": _GRADIO},
        Sdk.STREAMLIT: {"app.py": _STREAMLIT},
        Sdk.DOCKER: {"Dockerfile": _DOCKERFILE, "index.html": "<!doctype html>\n<title>Hello</title>\n<h1>Hello!</h1>\n"},
    }
    found = files.get(sdk)
    return {path: text.encode() for path, text in found.items()} if found else None
