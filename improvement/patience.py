"""How long somebody who waits for an answer waits for Mongo, all reads of a request together."""

from contextlib import AbstractContextManager

import pymongo

#: Seconds after which Mongo is asked no more, and what needs no Mongo answers.
SECONDS = 3.0


def impatiently() -> AbstractContextManager[None]:
    """Have what is read of Mongo inside fail when `SECONDS` have passed, and whatever is asked after that.

    For this thread. A store that is away is waited for once, not once for every question.
    """
    return pymongo.timeout(SECONDS)
