"""`python -m deploy.local up` runs the stack, `demo` shows a ticket's way through it."""

import os
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from typing import TextIO

from deploy.local.child import StartError
from deploy.local.config import Config
from deploy.local.demo import demo
from deploy.local.directory import LocalDirectory
from deploy.local.interrupt import Interrupt, StopRequested
from deploy.local.screen import Screen
from deploy.local.stack import Stack
from servicedesk.environment import SettingError

STOPPED_AT_ONCE = 130


def up(values: Mapping[str, str], out: TextIO) -> int:
    """Returns 0 after Ctrl-C or SIGTERM. Raises SettingError, StartError or OSError."""
    config = Config.from_environment(values)
    directory = LocalDirectory(config.directory).open()
    screen = Screen(out)
    stack = Stack(config, directory, screen)
    interrupt = Interrupt(stack.kill)
    try:
        stack.start(interrupt)
        stack.show()
        stack.watch(interrupt)
    except StopRequested:
        pass
    finally:
        try:
            stack.stop()
        finally:
            stack.kill()
            directory.close()
    screen.say("stopped; the data stays in " + stack.data_places())
    return STOPPED_AT_ONCE if interrupt.is_second else 0


def main(arguments: list[str]) -> int:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows what it can
    commands = {"up": up, "demo": demo}
    if len(arguments) != 1 or arguments[0] not in commands:
        print("usage: python -m deploy.local up|demo", file=sys.stderr)
        return 2
    try:
        return commands[arguments[0]](os.environ, sys.stdout)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (StartError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
