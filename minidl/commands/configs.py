"""`minidl configs`: list the shipped configs, or copy one to edit it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from minidl.atomic import replace_file
from minidl.commands.arguments import Parser, refuse_existing
from minidl.shipped import copy_of, description, shipped_config, shipped_configs
from minidl.terminal import aligned, say, width_of


def configs(arguments: Sequence[str]) -> int:
    """List the shipped configs, or copy one."""
    parser = Parser("configs", "List the shipped configs, or copy one to edit it.")
    parser.add_argument("--copy", metavar="NAME", help="write this config to NAME.yaml")
    parser.add_argument("--out", metavar="FILE", help="write it to this file instead")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    options = parser.parse_args(arguments)
    if options.copy is None:
        shipped = shipped_configs().items()
        lines = aligned((name, description(file)) for name, file in shipped).splitlines()
        say("\n".join(line[: width_of(sys.stdout)] for line in lines))
        say("minidl train NAME trains one; minidl configs --copy NAME writes it to NAME.yaml")
        return 0
    name = options.copy.removesuffix(".yaml")
    file = shipped_config(name, f"{parser.prog}:")
    out = Path(options.out or f"{name}.yaml")
    refuse_existing(out, force=options.force)
    text = copy_of(file)
    replace_file(out, lambda stream: stream.write(text.encode()))
    say(f"{out} written; train it by\n  minidl train {out}")
    return 0
