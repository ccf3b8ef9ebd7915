"""Which clips there are, and what is known of each."""

from auscult.corpus.clip import Clip
from auscult.corpus.layouts import open_data
from auscult.corpus.manifest import Manifest

__all__ = ["Clip", "Manifest", "open_data"]
