"""What the pre-training texts are about: word fields, and short notes of customers to shops of many trades."""

TOPICS = {
    "sports": "ball goal match team race coach stadium tennis trophy swimmer football runner",
    "food": "soup bread cake dinner cheese salad recipe pepper sauce breakfast butter rice",
    "travel": "train hotel flight suitcase passport airport beach tour map ferry luggage visa",
    "music": "song guitar piano concert singer drum melody band violin album choir trumpet",
    "weather": "rain storm snow wind sun cloud fog thunder forecast ice frost sky",
    "work": "office meeting boss contract project desk salary colleague report deadline career shift",
    "animals": "dog cat horse bird cow rabbit sheep duck tiger mouse goat lion",
    "garden": "flower tree lawn seed hedge rose shovel pond bush tulip weed rake",
    "school": "teacher lesson pupil exam homework chalk class book pencil grade essay college",
    "health": "doctor nurse fever medicine tooth hospital pill cough bandage headache flu vaccine",
    "money": "bank bill invoice payment price coin card receipt fee tax loan budget",
    "computers": "laptop screen keyboard printer website server email software file cable app browser",
    "houses": "roof door window stairs wall carpet chimney cellar balcony floor attic kitchen",
    "clothes": "shirt coat shoe hat dress sock glove scarf jacket button sleeve belt",
    "cars": "engine wheel brake driver fuel garage motor tyre traffic mirror road truck",
    "art": "painting brush museum sculpture artist colour canvas gallery portrait drawing sketch frame",
}

# theme → notes about it. Other trades, other words and other labels than those of examples/, which a test checks.
NOTES = {
    "payment": (
        "you took {amount} from my bank two times", "the bill for the {thing} is higher than you told me",
        "I paid {amount} for the {thing} but there is no receipt", "why is there a fee of {amount} on my card",
        "can I pay for the {thing} by bank transfer", "the sum on the invoice of {month} is not right",
        "I was billed for a {thing} that I never bought", "the price on the bill does not match the offer",
        "my bookkeeper asks for a copy of the bill", "the tax on the receipt for the {thing} is missing",
        "you charged the wrong card for my subscription", "my payment of {amount} failed but the money is gone",
    ),
    "account": (
        "I cannot sign in to the website", "my password does not work any more", "how can I change my user name",
        "the site says that my login is blocked", "the code you sent to my {device} has expired",
        "please unlock the login of {name}", "I lost the password for the library",
        "my profile page shows another name",
        "{name} should no longer have a login", "the reset link for my password is broken",
        "I never get the code to sign in", "my account was closed and I cannot log in to it",
    ),
    "delivery": (
        "my {thing} should have come on {day}", "where is the parcel with the {thing}",
        "the driver left the {thing} with the wrong neighbour", "the package with the {thing} arrived empty",
        "please send the {thing} to my office in {city}", "the box was lost on the way to {city}",
        "the mailman did not find my house", "one parcel of {number} is missing", "the courier never rang the bell",
        "tracking for the {thing} has not changed since {day}", "can the shipment go to another address",
        "the truck with the {thing} is still in {city}",
    ),
    "repair": (
        "the {thing} makes a strange noise", "the {thing} is broken after {number} days", "my {thing} does not turn on",
        "smoke came out of the {thing}", "the handle of the {thing} fell off", "the {thing} gets too hot",
        "water drips from the {thing}", "the motor of the {thing} stops after {number} minutes",
        "the light on the {thing} blinks red", "the wheel of the {thing} is stuck", "the {thing} stays cold",
        "there is a leak under the {thing}", "the screen of the {thing} stays dark", "the {thing} is very loud now",
    ),
    "software": (
        "the program closes by itself on my {device}", "the website does not load on the {device}",
        "since the update the app is very slow", "the app does not show my photos",
        "the map in the app stays empty on my {device}", "the button to save does nothing",
        "the app hangs when I open the calendar", "the app crashes when I press play",
        "messages in the app come too late", "your app uses all the memory of my {device}",
        "the search in the app finds nothing", "the new version does not start on the {device}",
    ),
    "privacy": (
        "please remove my name from your files", "which data do you store about me", "who can see my photos",
        "I do not want you to sell my address", "I did not agree to get your letters",
        "erase everything you know about {name}", "another person can read my private messages",
        "how long do you keep my personal data", "send me all the data you have on me",
        "our lawyer has a question about data protection", "I take back my consent to the use of my data",
        "a mail with my private data went to a stranger",
    ),
    "return": (
        "the {thing} does not fit and I would like to give it back", "can I swap the {thing} for a larger one",
        "I do not like the {thing}, please give me the money back", "where do I bring the {thing} that I do not want",
        "I sent the {thing} back but got no refund", "I bought one {thing} too many and want to return it",
        "the {thing} has the wrong size, can you take it back", "how many days do I have to return the {thing}",
        "I have no label to send back the {thing}", "I do not want the {thing} any longer",
        "please refund the {thing} from {month}", "the {thing} looks different from the picture, I will return it",
    ),
    "wish": (
        "why not make a {thing} for children", "I would love a green {thing}",
        "it would be nice to have a larger {thing}",
        "have you ever thought of a {thing} with a light", "my idea is a shop in {city}",
        "you should add a list of favourite songs", "please offer a smaller {thing} some day",
        "I hope that you will make a {thing} with a timer", "a {thing} that can sing would be great",
        "I suggest that you open on {day} as well", "could the next {thing} be made of wood",
        "a new feature for the {thing} would be a good thing",
    ),
    "booking": (
        "I want a table for {number} on {day}", "is there a free room in {month}", "please move my booking to {day}",
        "we will be {number} people and not two", "can {name} and I get seats together",
        "I have to cancel the room for {day}", "do you have a place for us on {day}", "is the hall free in {month}",
    ),
    "praise": (
        "{name} was so kind to me, thank you", "the {thing} is the best I ever had", "we love your shop in {city}",
        "many thanks for the wonderful {thing}", "what a lovely {thing}, well done", "you have the best team in {city}",
        "my family is very happy with the {thing}", "I will tell everybody how good the {thing} is",
    ),
}  # fmt: skip

# how much it matters → words for it.
HURRY = {
    "high": (
        "I need it today.", "Please hurry!", "This is very urgent!", "It cannot wait.", "As soon as possible!",
        "Do it now, please!", "We are losing money every minute!", "Call me back at once!", "Nothing works here!",
        "I need help this very minute!", "We have guests in an hour!", "It is a disaster, come quickly!",
    ),
    "normal": (
        "Please answer by {day}.", "I would like to hear from you soon.", "Tomorrow would be fine.",
        "A reply in a day or two, please.", "Can you do it by tomorrow?", "I hope for an answer tomorrow.",
        "It should be done before {day}.", "I can do without it for a day.", "Please see to it on the next day.",
    ),
    "low": (
        "There is no hurry.", "Any time is fine.", "Take your time.", "I am just curious.", "Next month is fine too.",
        "It is not important.", "I can wait.", "No need to rush.", "Do it when you have time.", "It is not urgent.",
        "Some day this week or the next.", "When it suits you.",
    ),
}  # fmt: skip
AMOUNTS = ("5 euros", "12 dollars", "40 euros", "99 pounds", "150 dollars", "60 euros", "18 pounds", "700 euros")
DEVICES = ("phone", "computer", "tablet", "laptop", "old phone", "new computer", "telephone", "screen at home")
THINGS = (
    "lamp chair table bicycle tent oven clock radio camera kettle toaster fridge heater fan drill saw scooter mattress "
    "sofa desk jacket boot helmet guitar piano drum printer speaker carpet mirror ladder umbrella backpack suitcase "
    "watch blender grill pump machine washing-machine vacuum telescope microscope tractor mixer pan pot iron"
).split()
