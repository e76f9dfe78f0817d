"""`densor report`: a page about an archive."""

import argparse
from pathlib import Path

from densor.cli import checks, console, frame
from densor.cli.arguments import Parser, add_flags

_SUFFIX = ".html"


def parser() -> argparse.ArgumentParser:
    """The parser of `densor report`."""
    parser = Parser(
        "report",
        description="Writes a page about an archive, one HTML file that needs no network: a map\n"
        "of its tensors by stored size and ratio, codecs, bits of an element, exponents;\n"
        "images with their prediction errors and bits per pixel, what columns of tables take,\n"
        "and the bits of characters of texts.",
    )
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("-o", dest="out", metavar="FILE", help="where to (ARCHIVE.html)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    add_flags(parser, "overwrite", "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    return frame.archive(args, args.archive, _write)


def _write(args: argparse.Namespace) -> str:
    from densor.cli import archive_page
    from densor.cli.contents import opened, recovery_share
    from densor.files.opened import open_output
    from densor.formats.io.outputs import write_all
    from densor.formats.io.urls import is_url, name_of

    name = name_of(args.archive) if is_url(args.archive) else Path(args.archive).name
    out = Path(args.out or name + _SUFFIX)
    checks.target_file(str(out), args.overwrite, args.archive)
    with opened(args.archive) as file:
        text = archive_page.page(file, name, recovery_share(args.archive) or "none", args.archive)
    with open_output(out, args.overwrite) as target:
        write_all(target, text.encode())
    if args.open:
        import webbrowser

        webbrowser.open(out.resolve().as_uri())
    return f"{console.escape(str(out))}: {console.size(len(text.encode()))}"
