"""Fills the tables of docs/iterations/*.md in from the result files they name.

Between `<!-- result: NAME -->` and `<!-- end -->` stands the table of that file; what was there
before is replaced. Everything outside is written by people.
"""

import re
from collections.abc import Callable, Mapping

from bench.result import Result, ResultError

BLOCK = re.compile(r"<!-- result: (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def fill(page: str, results: Mapping[str, Result], describe: Callable[[Result], str]) -> str:
    """The page with its tables. Raises ResultError for a file that is not there."""

    def block(match: re.Match[str]) -> str:
        result = results.get(match[1])
        if result is None:
            raise ResultError(f"there is no {match[1]} in bench/results/")
        return f"<!-- result: {match[1]} -->\n\n{describe(result)}\n\n<!-- end -->"

    return BLOCK.sub(block, page)
