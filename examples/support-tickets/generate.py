"""Writes train.jsonl and valid.jsonl: tickets to an invented coffee-machine maker, and how its desk files them.

The answer names a queue and a response time in the company's own words, which no model can know beforehand; a
fine-tune has to learn them. `python generate.py` writes the same files every time.
"""

import json
import random
from pathlib import Path

SEED = 20261124
TRAINING, HELD_OUT = 360, 100
SYSTEM = "File the ticket."

# queue → what customers write to it about. Fillers in braces come from FILLERS.
PROBLEMS = {
    "ledger-desk": (
        "the invoice for {month} shows {amount} instead of the agreed price",
        "I was charged twice for the {plan} subscription in {month}",
        "the VAT number on our invoice {code} is wrong",
        "my card was charged {amount} although I had cancelled the {plan} plan",
        "please send the {month} invoice to our accounting department",
        "the discount code was not taken off the bill of {amount}",
        "we need a receipt for the payment of {amount}",
    ),
    "keyring-crew": (
        "I cannot log in since I changed my {device}",
        "the password reset mail never arrives in my inbox",
        "my account is locked after three wrong passwords",
        "the login code on my {device} is always refused",
        "a colleague left and we need to remove her login",
        "I forgot the password of the account with order {code}",
        "two-step login asks for a phone that I no longer own",
    ),
    "parcel-dock": (
        "the parcel {code} has not moved for {number} days",
        "tracking says delivered in {city}, but nobody brought the package",
        "my delivery went to an old address in {city}",
        "the courier left the box with the {machine} in the rain",
        "can you ship the {machine} to {city} instead",
        "only one of {number} packages was delivered",
        "the shipment to {city} is stuck at customs",
    ),
    "boiler-lab": (
        "the {machine} leaks water after {number} cups",
        "the pump of my {machine} is very loud",
        "the steam wand of the {machine} stays cold",
        "the grinder of the {machine} is jammed and smells burnt",
        "the {machine} shows error {number} and stops heating",
        "water runs out under the {machine} overnight",
        "the display of the {machine} flickers and goes dark",
    ),
    "pixel-garage": (
        "the app crashes on my {device} when I open the recipes",
        "after the update the app no longer finds the {machine}",
        "the app shows a white screen on the {device}",
        "notifications from the app come {number} hours late",
        "the export button in the app does nothing",
        "the app freezes on the {device} while syncing",
        "the app drains the battery of my {device}",
    ),
    "vault-office": (
        "please delete all personal data you keep about me",
        "I want a copy of the personal data stored under {code}",
        "who has access to the usage data of my {machine}",
        "stop sending my data to advertising partners",
        "your newsletter ignores that I withdrew my consent in {month}",
        "our privacy officer needs the data processing agreement",
        "a stranger received a mail with my personal address in {city}",
    ),
    "return-counter": (
        "I want my money back for the {machine}",
        "how do I send the {machine} back within {number} days",
        "the {machine} is the wrong colour and I want to return it",
        "the refund of {amount} for the returned {machine} has not arrived",
        "we ordered {number} grinders too many and want to return them",
        "please refund order {code}, I changed my mind",
        "the return label for the {machine} does not print",
    ),
    "idea-board": (
        "it would be great if the {machine} could make tea",
        "please add a dark mode to the recipes page",
        "a timer for {number} in the morning would be a nice feature",
        "could a future {machine} have a bigger water tank",
        "my wish is a recipe list that the family can share",
        "have you thought about a smaller {machine} for the office",
        "I suggest a vacation mode for the {plan} plan",
    ),
}
# response time → how customers show how much it matters.
URGENCY = {
    "within-2h": (
        "This is an emergency, we open in an hour!",
        "Everything has come to a standstill here!",
        "I need help right now, please call at once!",
        "Our whole cafe is waiting, it is extremely urgent!",
    ),
    "next-day": (
        "It would help to hear from you tomorrow.",
        "Please look into it by tomorrow.",
        "We can manage today, but not much longer.",
        "An answer by tomorrow would be good.",
    ),
    "this-week": (
        "There is no rush at all.",
        "Whenever you find the time.",
        "It can wait a few days.",
        "Not urgent, just when it suits you.",
    ),
}
FILLERS = {
    "month": ("January", "March", "April", "June", "July", "September", "October", "December"),
    "amount": ("19 euros", "49 euros", "120 dollars", "8 dollars", "230 pounds", "75 euros", "310 dollars"),
    "plan": ("Basic", "Family", "Office", "Barista"),
    "code": ("A-1043", "B-2290", "C-7718", "D-0516", "E-9302", "F-4471"),
    "device": ("phone", "tablet", "laptop", "old phone", "new phone", "work computer"),
    "city": ("Oslo", "Lyon", "Porto", "Leeds", "Graz", "Ghent", "Turin", "Bergen"),
    "machine": ("Moka 2", "Crema Pro", "Ristretto Mini", "Piccolo", "Brewster 9", "Aroma One"),
    "number": ("2", "3", "4", "5", "6", "7", "8", "9"),
}
GREETINGS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "Hey,", "To whom it may concern,", "")
CLOSINGS = ("Thanks, {name}", "Best regards, {name}", "{name}", "Cheers, {name}", "Kind regards, {name}", "")
NAMES = ("Mia", "Jonas", "Priya", "Ola", "Sofia", "Marek", "Chloe", "Hassan", "Yuki", "Elena", "Tom", "Ines")


def ticket(rng: random.Random) -> tuple[str, dict[str, str]]:
    """One ticket's text and how the desk files it."""
    queue = rng.choice(sorted(PROBLEMS))
    response = rng.choice(sorted(URGENCY))
    problem = rng.choice(PROBLEMS[queue]).format(**{name: rng.choice(words) for name, words in FILLERS.items()})
    greeting = rng.choice(GREETINGS)
    problem = f"{greeting} {problem}" if greeting else problem[0].upper() + problem[1:]
    closing = rng.choice(CLOSINGS).format(name=rng.choice(NAMES))
    text = " ".join(part for part in (f"{problem}.", rng.choice(URGENCY[response]), closing) if part)
    return text, {"queue": queue, "respond": response}


def example(text: str, answer: dict[str, str]) -> str:
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": text},
        {"role": "assistant", "content": json.dumps(answer)},
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def main() -> None:
    rng = random.Random(SEED)
    tickets: dict[str, dict[str, str]] = {}
    while len(tickets) < TRAINING + HELD_OUT:
        text, answer = ticket(rng)
        tickets.setdefault(text, answer)
    lines = [example(text, answer) for text, answer in tickets.items()]
    folder = Path(__file__).parent
    (folder / "train.jsonl").write_text("".join(lines[:TRAINING]), encoding="utf-8")
    (folder / "valid.jsonl").write_text("".join(lines[TRAINING:]), encoding="utf-8")


if __name__ == "__main__":
    main()
