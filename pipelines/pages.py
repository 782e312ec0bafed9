"""Reports as one page that loads nothing, and as JSON beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

from cluster.config import StrictModel
from cluster.errors import ConfigError


def page(title: str, style: str, parts: Iterable[str]) -> str:
    """The whole page. Its policy lets a browser load nothing but the style that stands in it, by its hash.

    Args:
        title: HTML already, as the parts are.
    """
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{hashed}'; base-uri 'none'; form-action 'none'"
    return "".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f'<meta name="viewport" content="width=device-width"><style>{style}</style><h1>{title}</h1>',
            *parts,
            "</html>\n",
        )
    )


def write_report(folder: Path, name: str, html: str, figures: StrictModel) -> tuple[Path, Path]:
    """Write NAME.html and NAME.json into the folder, which is made.

    Raises:
        ConfigError: it cannot be written to.
    """
    paths = folder / f"{name}.html", folder / f"{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(html, encoding="utf-8")
        paths[1].write_text(figures.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        found = f"cannot be written to: {error.strerror}"
        raise ConfigError(f"--out: {folder}", found, "name a folder that you may write to") from None
    return paths
