"""Property tests look at the same examples in every run of the checks, at fresh ones when run by hand."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("fixed")
