"""A conversation with a served model, through the unmodified openai client."""

from collections.abc import Callable
from typing import Any

from openai import APIConnectionError, APIError, APIStatusError, OpenAI

from registry import LorikeetError


class Conversation:
    """Keeps the turns; each answer is streamed to `write(text, nl=False)`.

    `url` is the server's, with or without `/v1`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str,
        *,
        system: str | None,
        max_tokens: int,
        temperature: float,
    ) -> None:
        self._url, self._model = url.rstrip("/").removesuffix("/v1") + "/v1", model
        self._client = OpenAI(base_url=self._url, api_key=api_key)
        self._max_tokens, self._temperature = max_tokens, temperature
        self._turns: list[dict[str, str]] = []
        if system:
            self._turns.append({"role": "system", "content": system})

    def say(self, text: str, write: Callable[..., Any]) -> str:
        """Send one turn and return the answer.

        Raises: LorikeetError; the turn is forgotten then.
        """
        turns: Any = [*self._turns, {"role": "user", "content": text}]
        answer = ""
        try:
            stream = self._client.chat.completions.create(
                model=self._model,
                messages=turns,
                stream=True,
                max_tokens=self._max_tokens,
                temperature=self._temperature,
            )
            for chunk in stream:
                piece = chunk.choices[0].delta.content if chunk.choices else None
                if piece:
                    answer += piece
                    write(piece, nl=False)
        except APIConnectionError as error:
            raise LorikeetError(
                f"no server answers on {self._url}",
                remedy="start one with `lorikeet serve`, or name it with --url",
            ) from error
        except APIStatusError as error:
            body: Any = error.body
            message = body.get("message") if isinstance(body, dict) else None
            remedy = (
                "`lorikeet adapters list` shows the adapters" if error.status_code == 404 else None
            )
            raise LorikeetError(message or str(error), remedy=remedy) from error
        except APIError as error:  # an event in the stream says why it ends here
            if answer:
                write("")
            raise LorikeetError(error.message, remedy="ask again") from error
        write("")
        self._turns = [*turns, {"role": "assistant", "content": answer}]
        return answer
