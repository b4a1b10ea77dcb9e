"""Ordinary English words for the pre-training text."""

NAMES = (
    "Anna Ben Carla David Emma Felix Grace Hugo Ida Jonas Kim Lena Marco Nina Oscar Paula Quinn Rosa Sam Tara Uma "
    "Victor Wendy Xavier Yara Zoe Alice Bruno Chloe Daniel Eva Frank Greta Henry Iris Jack Karen Leo Maria Noah Olga "
    "Peter Rita Simon Tom Ursula Vera Walter Yusuf Amir Priya Chen Aiko Fatima Diego"
).split()
CITIES = (
    "Paris London Berlin Madrid Rome Vienna Oslo Dublin Lisbon Prague Athens Cairo Delhi Tokyo Lima Boston Chicago "
    "Toronto Sydney Geneva Hamburg Lyon Milan Porto Seoul Austin Denver Helsinki Warsaw Zurich"
).split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
JOBS = "teacher nurse baker driver painter farmer lawyer pilot cook doctor writer gardener engineer clerk".split()
NOUNS = (
    "account address app apple bag ball bank basket bed bell bicycle bill bird boat book bottle box bread bridge brush "
    "bus button cable cake camera car card carpet cat chair charger church clock cloud coat code coffee coin computer "
    "contract cup customer desk device dinner discount dog door dress email engine error export fan farm fence file "
    "film fish flower folder forest form fork garden gift glass guitar hammer hat helmet horse hospital hotel house "
    "image invoice invitation island jacket job key keyboard kitchen knife ladder lake lamp laptop letter library "
    "light link list lock login machine mail manual map market meal medal meeting member menu message mirror money "
    "moon motor mountain mouse name network newspaper notebook office order package page painting paper parcel "
    "party password pen pencil phone photo picture piece plan plane plant plate play policy pool portal price printer "
    "product profile program project purchase question radio receipt record refund report request ring river road "
    "robot room rule salad school screen seat server service setting shelf ship shirt shoe shop signature song soup "
    "spoon stage stamp station stone store story street student subscription sugar suitcase sun system table tablet "
    "tea team tent test ticket tool toy tracking train transfer tree truck umbrella update upload user van video "
    "village voice voucher wall wallet warehouse watch water website wheel window word world year"
).split()
ADJECTIVES = (
    "red blue green yellow black white small large old new heavy light fast slow clean dirty warm cold cheap expensive "
    "open closed broken empty full quiet loud long short wide narrow strong weak bright dark soft hard wet dry late "
    "early wrong right simple strange busy free ready missing double damaged locked lost late public private"
).split()
ADVERBS = (
    "slowly quickly suddenly often again never always quietly loudly early late twice badly well soon today yesterday "
    "daily rarely"
).split()
VERBS = (
    "open close move carry paint clean repair send find lose buy sell open read write watch use build change break "
    "bring keep show check call cancel charge connect deliver download install load lock log order pay print receive "
    "refund replace reset return save ship sign start stop switch test track unlock update upload"
).split()
PAST = (
    ("open", "opened"),
    ("close", "closed"),
    ("move", "moved"),
    ("carry", "carried"),
    ("paint", "painted"),
    ("clean", "cleaned"),
    ("repair", "repaired"),
    ("send", "sent"),
    ("find", "found"),
    ("lose", "lost"),
    ("buy", "bought"),
    ("sell", "sold"),
    ("read", "read"),
    ("write", "wrote"),
    ("watch", "watched"),
    ("use", "used"),
    ("build", "built"),
    ("change", "changed"),
    ("break", "broke"),
    ("bring", "brought"),
    ("keep", "kept"),
    ("show", "showed"),
    ("check", "checked"),
    ("call", "called"),
    ("cancel", "cancelled"),
    ("pay", "paid"),
    ("print", "printed"),
    ("receive", "received"),
    ("return", "returned"),
    ("order", "ordered"),
    ("take", "took"),
    ("give", "gave"),
    ("see", "saw"),
    ("go", "went"),
    ("eat", "ate"),
    ("drink", "drank"),
    ("sing", "sang"),
)
PLURALS = (
    ("apple", "apples"),
    ("book", "books"),
    ("box", "boxes"),
    ("car", "cars"),
    ("child", "children"),
    ("city", "cities"),
    ("dog", "dogs"),
    ("fish", "fish"),
    ("foot", "feet"),
    ("house", "houses"),
    ("key", "keys"),
    ("knife", "knives"),
    ("man", "men"),
    ("mouse", "mice"),
    ("tooth", "teeth"),
    ("tree", "trees"),
    ("watch", "watches"),
    ("woman", "women"),
    ("leaf", "leaves"),
    ("baby", "babies"),
    ("bus", "buses"),
    ("potato", "potatoes"),
    ("cup", "cups"),
    ("pen", "pens"),
)
OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("up", "down"),
    ("left", "right"),
    ("fast", "slow"),
    ("day", "night"),
    ("open", "closed"),
    ("full", "empty"),
    ("old", "new"),
    ("light", "dark"),
    ("happy", "sad"),
    ("early", "late"),
    ("rich", "poor"),
    ("strong", "weak"),
    ("wet", "dry"),
    ("loud", "quiet"),
    ("near", "far"),
    ("high", "low"),
    ("good", "bad"),
    ("clean", "dirty"),
    ("cheap", "expensive"),
    ("hard", "soft"),
    ("long", "short"),
    ("in", "out"),
)
GOOD = (
    "wonderful great lovely excellent perfect delightful fantastic superb pleasant amazing brilliant charming helpful "
    "friendly beautiful tasty comfortable"
).split()
BAD = (
    "terrible awful horrible poor useless boring disappointing broken rude dreadful ugly bitter annoying painful nasty "
    "unpleasant worthless"
).split()
FACTS = (
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of Spain?", "Madrid"),
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Austria?", "Vienna"),
    ("What is the capital of Norway?", "Oslo"),
    ("What is the capital of Ireland?", "Dublin"),
    ("What is the capital of Portugal?", "Lisbon"),
    ("What is the capital of Greece?", "Athens"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What colour is grass?", "green"),
    ("What colour is the sky?", "blue"),
    ("What colour is snow?", "white"),
    ("How many days has a week?", "seven"),
    ("How many months has a year?", "twelve"),
    ("How many legs has a dog?", "four"),
    ("How many wheels has a bicycle?", "two"),
    ("What day comes after Monday?", "Tuesday"),
    ("What day comes before Sunday?", "Saturday"),
    ("What do cows drink?", "water"),
    ("What do we read?", "books"),
    ("What do bees make?", "honey"),
)
