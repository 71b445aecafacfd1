"""An agent that knows nothing but the client of OpenAI: it calculates for the model.

    pip install 'grpojax[serve]' openai
    grpojax train examples/recipes/agent-tiny.yaml --out out/agent

Whenever the model writes a calculation such as `12+30=`, the result follows; so the
model need not calculate, but has to say what, and then the answer.
"""

import operator
import re

from openai import OpenAI


CLIENT = OpenAI(base_url="http://127.0.0.1", api_key="none")
CALCULATE = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a // b if b else 0,
}


def solve(row, base_url):
    client = CLIENT.with_options(base_url=base_url)
    text = f"Question: {row['question']}\nAnswer:"
    for _ in range(5):
        asked = client.completions.create(model="policy", prompt=text, stop="=")
        text += asked.choices[0].text
        found = re.search(r"(\d+)([-+*/])(\d+)$", text)
        if found is None:
            break
        text += f"={CALCULATE[found[2]](int(found[1]), int(found[3]))}"
    said = re.findall(r"#### (-?\d+)", text)
    return float(said[-1:] == row["answer"].split()[-1:])
