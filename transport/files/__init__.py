"""Files (model weights) over a stream: named by a BLAKE3 root, checked piece by piece, resumed where they broke off.

::

    root = await library.add(path)                 # one side
    await library.serve(stream)

    await fetch_file(stream, root, destination)    # the other

The exchange is drawn in :mod:`transport.files.exchange` and specified in docs/protocols/tunnel.md.
"""

from transport.files.exchange import Fetched, FileLibrary, fetch_file
from transport.files.manifest import FileError, Manifest, manifest_of

__all__ = ["Fetched", "FileError", "FileLibrary", "Manifest", "fetch_file", "manifest_of"]
