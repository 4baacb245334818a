"""Open a page in the person's browser."""

from pathlib import Path


def open_page(path: Path) -> str:
    """Open the page in the default browser; return what to tell: its path where there is no browser."""
    import webbrowser

    try:
        was_opened = webbrowser.open(path.resolve().as_uri())
    except webbrowser.Error:
        was_opened = False
    if was_opened:
        return f"opened in the browser: {path}"
    return f"no browser was found here; open this file in one: {path.resolve()}"
