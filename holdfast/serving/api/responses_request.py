"""The body of `POST /v1/responses` and what of it this server obeys; docs/responses.md has the table."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from holdfast.errors import InvalidInput
from holdfast.retrieval.filters import make_filter
from holdfast.serving.answer import FileSearch
from holdfast.serving.api.responses_items import InputItem
from holdfast.serving.api.sampling import (
    CacheOptions,
    ReadingOptions,
    ServiceTier,
    StreamOptions,
    check_stream_options,
    refuse_given,
    refused,
)
from holdfast.serving.api.schemas import HybridSearch, Metadata, RequestModel, StoreIds
from holdfast.serving.engine.protocol import Sampling

RESULTS = "file_search_call.results"
LOGPROBS = "message.output_text.logprobs"

MAX_ITEMS = 10_000
Include = Literal[
    "file_search_call.results",
    "message.output_text.logprobs",
    # these select parts of items that never occur here
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
]


class RankingOptions(RequestModel):
    """How results are ranked, and below which score they do not count."""

    ranker: Literal["auto", "default-2024-11-15"] | None = None
    score_threshold: float | None = Field(None, ge=0, le=1)
    hybrid_search: HybridSearch | None = None


class FileSearchTool(RequestModel):
    """Search these vector stores before answering."""

    type: Literal["file_search"]
    vector_store_ids: StoreIds
    filters: dict[str, Any] | None = None
    max_num_results: int | None = Field(None, ge=1, le=50)
    ranking_options: RankingOptions | None = None

    def to_search(self) -> FileSearch:
        options = self.ranking_options or RankingOptions()
        ranking = options.hybrid_search.to_ranking() if options.hybrid_search else None
        stores = tuple(self.vector_store_ids)
        return FileSearch(stores, self.filters, self.max_num_results, options.score_threshold, ranking)


class OtherTool(RequestModel, extra="allow"):
    """Any other tool; refused with its name."""

    type: str


def kind_of(tool: Any) -> str:
    """Name the kind of a tool."""
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "file_search" if kind == "file_search" else "other"


Tool = Annotated[
    Annotated[FileSearchTool, Tag("file_search")] | Annotated[OtherTool, Tag("other")], Discriminator(kind_of)
]


class TextFormat(RequestModel, extra="allow"):
    """The form of the answer; only text is produced."""

    type: Literal["text", "json_object", "json_schema"]


class TextOptions(RequestModel):
    """How the text is to be."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(RequestModel):
    """How much to think first; engines here do not."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class InputBody(RequestModel):
    """What the conversation is made of, whether to answer it or to count its tokens."""

    model: str | None = None
    input: str | Annotated[list[InputItem], Field(max_length=MAX_ITEMS)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | OtherTool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    parallel_tool_calls: bool | None = None
    conversation: str | dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what is known but cannot be obeyed."""
        refuse_given(self, "conversation")
        if self.input is None and self.previous_response_id is None:
            raise InvalidInput(
                "One of 'input' or 'previous_response_id' is required.",
                code="missing_required_parameter",
                param="input",
            )
        if self.truncation == "auto":
            raise refused("truncation", "auto", "a conversation is answered whole or not at all")
        if self.text and self.text.format and self.text.format.type != "text":
            raise refused("text.format.type", self.text.format.type, 'answers are "text"')
        if self.text and self.text.verbosity not in (None, "medium"):
            raise refused("text.verbosity", str(self.text.verbosity), "leave it out")
        if self.reasoning and any(value not in (None, "none") for value in self.reasoning.model_dump().values()):
            raise refused("reasoning", "{...}", "leave it out")
        self._check_tools()

    def _check_tools(self) -> None:
        tools = self.tools or []
        for row, tool in enumerate(tools):
            if not isinstance(tool, FileSearchTool):
                raise refused(f"tools[{row}].type", tool.type, "the only tool is file_search")
            try:
                make_filter(tool.filters)  # also where tool_choice keeps it from being used: the response shows it
            except InvalidInput as error:
                error.param = f"tools[{row}].{error.param}"
                raise
        if len(tools) > 1:
            raise refused("tools", "[...]", "name all vector stores in one file_search tool")
        if isinstance(self.tool_choice, OtherTool) and self.tool_choice.model_dump() != {"type": "file_search"}:
            raise refused("tool_choice.type", self.tool_choice.type, "the only tool is file_search")
        if self.tool_choice not in (None, "auto", "none") and not tools:
            raise InvalidInput("tool_choice asks for a tool; 'tools' has none.", param="tool_choice")

    @property
    def tool_search(self) -> FileSearch | None:
        """What the file_search tool searches, if there is one."""
        tools = [tool for tool in self.tools or [] if isinstance(tool, FileSearchTool)]
        return tools[0].to_search() if tools else None

    @property
    def search(self) -> FileSearch | None:
        """What to search: a tool that may be used is used for every answer."""
        return None if self.tool_choice == "none" else self.tool_search


class ResponseBody(InputBody):
    """The request."""

    include: list[Include] | None = None
    max_output_tokens: int | None = Field(None, ge=16)
    metadata: Metadata | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    holdfast: ReadingOptions | None = None
    prompt_cache_options: CacheOptions | None = None
    # shown again in the response, otherwise without effect
    max_tool_calls: int | None = Field(None, ge=1)
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    # without effect
    service_tier: ServiceTier | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    # refused, but for the form that changes nothing
    background: bool | None = None
    context_management: list[dict[str, Any]] | None = None
    moderation: dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what is known but cannot be obeyed."""
        super().check()
        refuse_given(self, "context_management", "moderation", "prompt")
        if self.background:
            raise refused("background", "true", "wait for the response, or stream it")
        check_stream_options(self.stream_options, is_stream=bool(self.stream))
        if self.top_logprobs and LOGPROBS not in (self.include or ()):
            raise InvalidInput(f"top_logprobs needs {LOGPROBS!r} in include.", param="top_logprobs")

    @property
    def has_results(self) -> bool:
        return RESULTS in (self.include or ())

    @property
    def sampling(self) -> Sampling:
        """The sampling asked for, in OpenAI's defaults where nothing is said."""
        return Sampling(
            max_tokens=self.max_output_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            logprobs=LOGPROBS in (self.include or ()),
            top_logprobs=self.top_logprobs or 0,
        )
