"""Where public data sets are had: python -m hccp_jax.data.sources. Nothing is fetched by this program."""

import sys
from collections.abc import Sequence

from hccp_jax.data.sources.registry import SOURCES, source
from hccp_jax.errors import UserError


def described(name: str) -> str:
    """A paragraph about a data set."""
    dataset = source(name)
    lines = [f"{name}: {dataset.title}", f"  used by: {dataset.papers}", f"  where: {dataset.where}"]
    lines.append(f"  licence: {dataset.licence}")
    for file in dataset.files:
        known = "; ".join(filter(None, (file.size, file.checksum)))
        lines.append(f"  file: {file.name}" + (f" ({known})" if known else ""))
    if dataset.note:
        lines.append(f"  note: {dataset.note}")
    lines.append(f"  then: python -m hccp_jax.data.convert --source={name} --input=DIR --output=STORE")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print what is known of some sources, or of all."""
    try:
        print("\n\n".join(described(name) for name in arguments or SOURCES))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
