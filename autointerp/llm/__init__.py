"""Asking language models: requests, answers, the broker that sends them and the journal that keeps every answer.

    with Journal(folder) as journal:
        async with Broker(open_provider("openai"), "gpt-5-mini", journal) as broker:
            answer = await broker.ask(Request([Message("user", "...")], purpose="explain"))

An explainer or a scorer needs `Request`, `Message`, `Answer`, `RequestFailed` and the type `Ask` only.
The registry of providers is `autointerp.llm.provider.providers`; here its name belongs to the folder of its parts.
"""

from autointerp.llm.broker import Broker
from autointerp.llm.compaction import Compaction
from autointerp.llm.entry import Entry
from autointerp.llm.identity import request_key
from autointerp.llm.journal import Journal
from autointerp.llm.provider import (
    CallFailed,
    Capabilities,
    Provider,
    ProviderOptions,
    Reply,
    check_request,
    open_provider,
    require,
)
from autointerp.llm.recorder import Progress
from autointerp.llm.tally import Calibration, Spend
from autointerp.llm.types import (
    Answer,
    Ask,
    Deferred,
    FailureKind,
    Message,
    Request,
    RequestFailed,
    TokenLogprobs,
    Tool,
    ToolCall,
    Usage,
)

__all__ = [
    "Answer",
    "Ask",
    "Broker",
    "Calibration",
    "CallFailed",
    "Capabilities",
    "Compaction",
    "Deferred",
    "Entry",
    "FailureKind",
    "Journal",
    "Message",
    "Progress",
    "Provider",
    "ProviderOptions",
    "Reply",
    "Request",
    "RequestFailed",
    "Spend",
    "TokenLogprobs",
    "Tool",
    "ToolCall",
    "Usage",
    "check_request",
    "open_provider",
    "request_key",
    "require",
]
