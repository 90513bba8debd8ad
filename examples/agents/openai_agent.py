"""An agent in plain openai calls, with one tool.

actfocus train env=none agent=examples.agents.openai_agent:play data.train_files=train.jsonl data.val_files=test.jsonl \
    model=qwen2.5-0.5b platform=gpu

A row of the files is a task: {"question": "17 * 23", "answer": "391"}.
"""

from __future__ import annotations

import openai

from examples.agents.sums import TOOL, judge, multiply

SYSTEM = "Answer with a number. Use the tool for every multiplication."


async def play(task: dict, *, base_url: str, api_key: str, model: str) -> float:
    """Answer the question; the reward is 1 for the right number."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task["question"]}]
        for _ in range(4):
            answer = await client.chat.completions.create(model=model, messages=messages, tools=[TOOL])
            message = answer.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return judge(message.content, task["answer"])
            for call in message.tool_calls:
                result = multiply(call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return 0.0
