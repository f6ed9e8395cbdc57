"""Fetch the images: from a folder, a manifest, an archive or an address."""
