"""The word problems of the arithmetic generator.

A template is a question followed by its solution steps. In both, `{name}` and the like are filled from the lists below
and `(one|other)` picks one wording. Single letters are whole numbers: `{a}` to `{d}` are given in the question, and
a step `[a + b]` works out the next of x, y, z and reads "3 + 4 = 7".
"""

PEOPLE = tuple(
    "Ada Amir Ana Ben Bela Carla Chen Clara Dana David Emma Eric Fatima Felix Grace Hana Hugo Ida Igor Iris Ivan Jan "
    "Jin Julia Karim Kofi Lara Leo Lina Luca Maya Mei Mila Nadia Noah Nora Olga Omar Pablo Petra Rania Ravi Rosa Sam "
    "Sara Sven Tara Theo Tom Uma Vera Victor Wei Yara Yusuf Zoe".split()
)

WORDS = {
    "name": PEOPLE,
    "friend": PEOPLE,
    "item": tuple("apples pears marbles stickers shells coins stamps buttons cards pebbles beads ribbons".split()),
    "fruit": tuple("apples pears plums peaches oranges lemons mangoes cherries figs melons".split()),
    "food": tuple("cookies muffins rolls pies tarts buns pancakes waffles".split()),
    "supply": tuple("pencils pens erasers crayons markers notebooks folders rulers".split()),
    "plant": tuple("tulips roses daisies ferns lilies cabbages carrots onions".split()),
    "box": tuple("boxes bags baskets crates jars packs".split()),
    "animal": tuple("ducks hens goats sheep rabbits geese ponies calves".split()),
    "toy": tuple("balls dolls puzzles kites robots drums yo-yos trains".split()),
    "day": tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "place": tuple("library museum station market park school harbour stadium".split()),
}

ONE_STEP = (
    (
        "{name} has {a} {item}. {friend} gives {name} {b} more. How many {item} does {name} have (now|in all)?",
        "[a + b] {item}.",
    ),
    (
        "{name} (had|owned) {a} {item} and (lost|gave away|sold) {b} of them. How many {item} (are left|remain)?",
        "[a - b] {item} are left.",
    ),
    (
        "(There are|{name} has) {a} {box} with {b} {item} in each. How many {item} (is that|are there) in all?",
        "[a * b] {item}.",
    ),
    (
        "{name} (shares|divides) {a} {food} equally among {b} (children|friends). How many {food} does each get?",
        "[a / b] {food} each.",
    ),
    (
        "{name} is {a} years old. {friend} is {b} years older. How old is {friend}?",
        "[a + b] years.",
    ),
    (
        "A ticket to the {place} costs {a} dollars. How much do {b} tickets cost?",
        "[a * b] dollars.",
    ),
    (
        "{name} wants to read {a} pages and has read {b}. How many pages are (left|still to read)?",
        "[a - b] pages are left.",
    ),
    (
        "{name} puts {a} {supply} into rows of {b}. How many rows (are there|does that make)?",
        "[a / b] rows.",
    ),
    (
        "A farm has {a} {animal} and {b} more (arrive|are born). How many {animal} does it have now?",
        "[a + b] {animal}.",
    ),
    (
        "{name} walks {a} kilometres (a|every) day. How many kilometres is that in {b} days?",
        "[a * b] kilometres.",
    ),
    (
        "A rope is {a} metres long. {name} cuts off {b} metres. How long is the rest?",
        "[a - b] metres.",
    ),
    (
        "{name} has {a} {toy} and {friend} has {b}. How many {toy} do they have together?",
        "[a + b] {toy}.",
    ),
)

TWO_STEPS = (
    (
        "{name} has {a} {item}, (buys|finds|gets) {b} more and then gives {c} to {friend}. "
        "How many {item} does {name} have (now|left)?",
        "[a + b] {item}.",
        "[x - c] {item} are left.",
    ),
    (
        "{name} picks {a} {fruit} on {day} and {b} the next day. {name} eats {c} of them. How many {fruit} are left?",
        "[a + b] {fruit}.",
        "[x - c] {fruit} are left.",
    ),
    (
        "{name} buys {a} {box} of {supply} with {b} in each and already had {c} {supply}. "
        "How many {supply} does {name} have (now|in all)?",
        "[a * b] {supply}.",
        "[x + c] {supply} in all.",
    ),
    (
        "{name} bakes {a} trays of {b} {food} and (sells|eats|gives away) {c}. How many {food} are left?",
        "[a * b] {food}.",
        "[x - c] {food} are left.",
    ),
    (
        "{name} has {a} {item}. {friend} has {b} times as many. How many {item} do they have together?",
        "[a * b] {item}.",
        "[x + a] {item} together.",
    ),
    (
        "{name} has {a} {item} and {friend} has {b} more than {name}. How many {item} do they have together?",
        "[a + b] {item}.",
        "[x + a] {item} together.",
    ),
    (
        "{name} has {a} {item} and {friend} has {b} fewer. How many {item} do (they|the two) have together?",
        "[a - b] {item}.",
        "[x + a] {item} together.",
    ),
    (
        "{name} had {a} {item}, gave {b} to {friend} and put the rest equally into {c} {box}. "
        "How many {item} are in each?",
        "[a - b] {item}.",
        "[x / c] {item} each.",
    ),
    (
        "{name} and {friend} have {a} and {b} {fruit}. They share them equally among {c} people. "
        "How many {fruit} does each person get?",
        "[a + b] {fruit}.",
        "[x / c] {fruit} each.",
    ),
    (
        "{name} earns {a} dollars an hour. After working {b} hours, {name} spends {c} dollars. How much is left?",
        "[a * b] dollars.",
        "[x - c] dollars are left.",
    ),
    (
        "A bus has {a} passengers. At the {place} {b} get off and {c} get on. How many passengers are on the bus now?",
        "[a - b] passengers.",
        "[x + c] passengers now.",
    ),
    (
        "{name} is {a} years old. {friend} is {b} years younger. How old will {friend} be in {c} years?",
        "[a - b] years now.",
        "[x + c] years then.",
    ),
    (
        "{name} is {a}. {friend} is {b} times as old. How many years older is {friend}?",
        "[a * b] years.",
        "[x - a] years older.",
    ),
    (
        "A book has {a} pages. {name} reads {b} pages on {day} and {c} the day after. How many pages are left?",
        "[b + c] pages.",
        "[a - x] pages are left.",
    ),
    (
        "{name} reads {a} pages a day for {b} days, and the book has {c} pages more. How long is the book?",
        "[a * b] pages.",
        "[x + c] pages.",
    ),
    (
        "A garden has {a} rows of {b} {plant}. (Rabbits eat|{name} cuts|Frost kills) {c} of them. "
        "How many {plant} are left?",
        "[a * b] {plant}.",
        "[x - c] {plant} are left.",
    ),
    (
        "{name} plants {a} {plant} and {friend} plants {b}. They plant them in rows of {c}. How many rows are there?",
        "[a + b] {plant}.",
        "[x / c] rows.",
    ),
    (
        "A farmer has {a} {animal}, sells {b} and (buys|raises) {c} more. How many {animal} are on the farm now?",
        "[a - b] {animal}.",
        "[x + c] {animal} now.",
    ),
    (
        "{a} {animal} live in one barn and {b} in another. Each eats {c} kilos of feed. How much feed is needed?",
        "[a + b] {animal}.",
        "[x * c] kilos.",
    ),
    (
        "A toy costs {a} dollars and a game {b} dollars. How much do {c} of each cost?",
        "[a + b] dollars.",
        "[x * c] dollars.",
    ),
    (
        "{name} buys {a} {toy} for {b} dollars each and pays {c} dollars for delivery. What is the total cost?",
        "[a * b] dollars.",
        "[x + c] dollars in total.",
    ),
    (
        "{name} has {a} dollars and earns {b} more. A ticket costs {c} dollars. How many tickets can {name} buy?",
        "[a + b] dollars.",
        "[x / c] tickets.",
    ),
    (
        "{name} runs {a} kilometres on {day} and twice as far the next day. How far does {name} run in all?",
        "[a * 2] kilometres.",
        "[a + x] kilometres in all.",
    ),
    (
        "{name} cuts a rope of {a} metres in half and uses {b} metres of one half. How much of that half is left?",
        "[a / 2] metres.",
        "[x - b] metres are left.",
    ),
    (
        "{name} saves {a} dollars a week for {b} weeks. A bike costs {c} dollars more than that. "
        "What does the bike cost?",
        "[a * b] dollars.",
        "[x + c] dollars.",
    ),
    (
        "A class of {a} children forms groups of {b}. Each group gets {c} {supply}. How many {supply} is that?",
        "[a / b] groups.",
        "[x * c] {supply}.",
    ),
    (
        "{name} drives {a} kilometres on {day}, {b} the next day and {c} the day after. How far is that in all?",
        "[a + b] kilometres.",
        "[x + c] kilometres in all.",
    ),
    (
        "A tank holds {a} litres. {name} (takes|pours) out {b} litres and later {c} more. How many litres are left?",
        "[a - b] litres.",
        "[x - c] litres are left.",
    ),
    (
        "A team scores {a} points in the first half and {b} in the second. Another team scores {c} fewer. "
        "How many points does the other team score?",
        "[a + b] points.",
        "[x - c] points.",
    ),
    (
        "{name} has {a} {box} of {b} {fruit} and {friend} takes half of them. How many {fruit} does {friend} take?",
        "[a * b] {fruit}.",
        "[x / 2] {fruit}.",
    ),
)

THREE_STEPS = (
    (
        "{name} has {a} {item}, finds {b}, loses {c} and then gets {d} from {friend}. How many are there now?",
        "[a + b] {item}.",
        "[x - c] {item}.",
        "[y + d] {item} now.",
    ),
    (
        "{name} buys {a} {box} of {b} {food} and {friend} brings {c} more. {d} are eaten. How many {food} are left?",
        "[a * b] {food}.",
        "[x + c] {food}.",
        "[y - d] {food} are left.",
    ),
    (
        "{name} buys {a} {toy} at {b} dollars and {c} books at {d} dollars. How much does {name} pay?",
        "[a * b] dollars.",
        "[c * d] dollars.",
        "[x + y] dollars in all.",
    ),
    (
        "A {place} sells {a} tickets at {b} dollars and {c} at {d} dollars. How much more do the first ones bring in?",
        "[a * b] dollars.",
        "[c * d] dollars.",
        "[x - y] dollars more.",
    ),
    (
        "{name} earns {a} dollars a day for {b} days, spends {c} dollars and shares the rest equally with {friend}. "
        "How much does each get?",
        "[a * b] dollars.",
        "[x - c] dollars.",
        "[y / 2] dollars each.",
    ),
    (
        "{name} has {a} {item}. {friend} has twice as many and loses {b}. How many do they have together?",
        "[a * 2] {item}.",
        "[x - b] {item}.",
        "[y + a] {item} together.",
    ),
    (
        "A farm has {a} {animal} and {b} times as many pigs. It sells {c} pigs. How many animals are left in all?",
        "[a * b] pigs.",
        "[x - c] pigs.",
        "[y + a] animals in all.",
    ),
    (
        "{name} puts {a} {supply} and {b} more into {c} {box} equally and takes {d} out of one. "
        "How many {supply} are left in that one?",
        "[a + b] {supply}.",
        "[x / c] {supply}.",
        "[y - d] {supply} are left.",
    ),
    (
        "A train has {a} cars with {b} people each. {c} get off at the {place} and {d} get on. How many ride on?",
        "[a * b] people.",
        "[x - c] people.",
        "[y + d] people.",
    ),
    (
        "{name} plants {a} rows of {b} {plant} and {friend} plants {c} rows of {d}. How many {plant} are there in all?",
        "[a * b] {plant}.",
        "[c * d] {plant}.",
        "[x + y] {plant} in all.",
    ),
)

TEMPLATES: tuple[tuple[str, ...], ...] = ONE_STEP + TWO_STEPS + THREE_STEPS
