"""Read the config.json of a Hugging Face model into an Architecture."""

from ridgeline.facts.huggingface.fields import HuggingFaceError
from ridgeline.facts.huggingface.reader import read_config, supported

__all__ = ["HuggingFaceError", "read_config", "supported"]
