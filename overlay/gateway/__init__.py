"""OpenAI's HTTP API in front of the node: the door that every existing client knows."""

from overlay.gateway.app import GatewayApp
from overlay.gateway.backend import JobBackend, JobRun, ModelInfo
from overlay.gateway.serve import serve_gateway

__all__ = ["GatewayApp", "JobBackend", "JobRun", "ModelInfo", "serve_gateway"]
