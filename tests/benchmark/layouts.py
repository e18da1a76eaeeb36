"""What each benchmark's files look like, as their authors publish them, with a few questions of our own."""

from __future__ import annotations

import image_layouts
import video_layouts
from layout import Layout

LAYOUTS: dict[str, Layout] = {**video_layouts.LAYOUTS, **image_layouts.LAYOUTS}
