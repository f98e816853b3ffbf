"""Why no image of a source can be found or read: an example of what lies there in their place."""

import itertools
import os
import pathlib
import re
from collections.abc import Iterator

LOOKED_AT = 5000  # files: enough to see what a tree is made of
WELL = r"[A-Z]{1,2}\d{2}_s\d+"
OUTSIDE = "a link out of the source folder, which --follow-links reads"
# Names that are nearly those of images -> what they are.
NEARLY = {
    rf"{WELL}\.(png|jpe?g|tiff?)": "one file for all channels of a site, such as WILDS's crops of three: the published "
    "images have one per channel",
    rf"{WELL}_w?\d+\.(jpe?g|tiff?|webp|bmp)": "a copy in another format: the published files are read, with no loss",
    r"Plate\d+([ _-]\(?\d+\)?|[ _-]copy|[ _-]Copy)+\.tar": "a further download or copy: rename it to PlateN.tar",
    r"Plate\d+\.(tar\.\w+|tgz|zip|7z)": "compressed: unpack it to PlateN.tar",
    r".*\.(zip|7z|rar|tgz|tar\.(gz|bz2|xz|zst))": "an archive that is not unpacked",
}


def nearly(path: str) -> str:
    """Returns what a file is whose name is nearly that of images; '' for any other."""
    name = path.rsplit("/", 1)[-1]
    return next((what for pattern, what in NEARLY.items() if re.fullmatch(pattern, name)), "")


def cause(root: pathlib.Path) -> str:
    """Returns why the images of a folder are not found, '; NAME is ...', by the first file that tells; '' if none."""
    inside = f"{os.path.realpath(root)}{os.sep}"
    for path in itertools.islice(_files(root), LOOKED_AT):
        name, is_table = os.path.relpath(path, root), path.endswith(".csv")  # which may be a link, and is read
        outside = not is_table and os.path.islink(path) and not os.path.realpath(path).startswith(inside)
        if what := OUTSIDE if outside else nearly(name):
            return f"; {name} is {what}"
    return ""


def _files(root: pathlib.Path) -> Iterator[str]:
    """Yields the paths of files, and of links to folders, below a folder."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        links = (name for name in folders if os.path.islink(os.path.join(folder, name)))
        yield from (os.path.join(folder, name) for name in [*links, *sorted(names)] if not name.startswith("."))
