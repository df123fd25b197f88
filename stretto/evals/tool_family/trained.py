"""Tools and requests that a model may be trained on; see :mod:`stretto.evals.tool_family`."""

from stretto.evals.tool_family.entry import Catalogue

TRAINED = Catalogue()
asked = TRAINED.asked


@asked(
    "What do {count} pieces at {price} dollars each cost[ with a tax of {tax} percent]?",
    "I buy {count} things for {price} dollars apiece. How much is that[ if {tax}% tax is added]?",
    "Total for {price} dollars times {count}[, {tax} percent tax included], please.",
    price="float 2 90 0.5", count="int 2 40", tax="int 3 25",
)  # fmt: skip
def total_price(price: float, count: int, tax: float = 0) -> float:
    """Total price of several equal pieces.

    price: Price of one piece in dollars.
    count: Number of pieces.
    tax: Tax in percent.
    """
    return round(price * count * (1 + tax / 100), 4)


@asked(
    "Book a table for {guests} at {restaurant} on {date}[, outside seating: {place}].",
    "We are {guests} people and want to eat at {restaurant} on {date}[, in the {place}].",
    "On {date} please reserve for {guests} persons at {restaurant}[, we prefer the {place}].",
    restaurant="of Luigi's|Sakura|The Oak|Bistro Nord|Casa Verde", guests="int 2 12",
    date="date", place="of garden|bar|terrace|window",
)  # fmt: skip
def reserve_table(restaurant: str, date: str, guests: int, place: str = "any") -> str:
    """Reserve a table in a restaurant.

    restaurant: Name of the restaurant.
    date: Day of the visit in the format YYYY-MM-DD.
    guests: Number of guests.
    place: Where to sit.
    """
    return f"{restaurant}|{date}|{guests}|{place}"


@asked(
    "Convert {celsius} degrees Celsius to Fahrenheit[ and round to {digits} digits].",
    "It is {celsius} degrees Celsius. What is that in Fahrenheit[, with {digits} digits]?",
    celsius="float -20 45 0.5", digits="int 2 4",
)  # fmt: skip
def to_fahrenheit(celsius: float, digits: int = 1) -> str:
    """Convert a temperature from Celsius to Fahrenheit.

    celsius: Temperature in degrees Celsius.
    digits: Digits after the point.
    """
    return f"{celsius * 9 / 5 + 32:.{digits}f}"


@asked(
    "Send {person} a message in {minutes} minutes[ with priority {priority}].",
    "In {minutes} minutes, message {person}[; the priority is {priority}].",
    "Schedule a message to {person}, {minutes} minutes from now[, {priority} priority].",
    person="person", minutes="int 5 90", priority="of low|high|urgent",
)  # fmt: skip
def schedule_message(person: str, minutes: int, priority: str = "normal") -> str:
    """Schedule a message to a person.

    person: Name of the person who gets it.
    minutes: Minutes from now.
    priority: How important it is.
    """
    return f"{person}|{minutes}|{priority}"


@asked(
    "What is the volume of a box {length} cm long, {width} cm wide and {height} cm high?",
    "A crate is {width} cm wide, {height} cm high and {length} cm long. Find its volume.",
    "Box: height {height} cm, length {length} cm, width {width} cm. How big is it?",
    length="int 10 99", width="int 10 99", height="int 10 99",
)  # fmt: skip
def box_volume(length: int, width: int, height: int) -> str:
    """Volume of a box, with its measures.

    length: Length in cm.
    width: Width in cm.
    height: Height in cm.
    """
    return f"{length}x{width}x{height}: {length * width * height}"


@asked(
    "Find flights from {start} to {end} on {date}[ in {cabin} class].",
    "I want to fly to {end} from {start} on {date}[, {cabin} class].",
    "Which planes go on {date} from {start} to {end}[, {cabin} class only]?",
    start="city", end="city", date="date", cabin="of business|first|premium",
)  # fmt: skip
def find_flight(start: str, end: str, date: str, cabin: str = "economy") -> str:
    """Find flights between two cities.

    start: City of departure.
    end: City of arrival.
    date: Day of departure in the format YYYY-MM-DD.
    cabin: Class of travel.
    """
    return f"{start}>{end} {date} {cabin}"


@asked(
    "What is the mean of {numbers}[, rounded to {digits} digits]?",
    "Average these numbers: {numbers}[. Use {digits} digits].",
    "I measured {numbers}. Tell me the average[ with {digits} digits].",
    numbers="ints 4 1 90", digits="int 1 3",
)  # fmt: skip
def mean_of(numbers: list[int], digits: int = 2) -> str:
    """Arithmetic mean of numbers.

    numbers: The numbers.
    digits: Digits after the point.
    """
    return f"{sorted(numbers)} {sum(numbers) / max(1, len(numbers)):.{digits}f}"


@asked(
    "How far do I get in {hours} hours at {speed} km/h[ with breaks of {pause} minutes]?",
    "Driving {speed} km/h for {hours} hours[ and resting {pause} minutes], how far is that?",
    speed="int 30 130", hours="float 1 9 0.5", pause="int 10 55",
)  # fmt: skip
def distance_driven(speed: float, hours: float, pause: int = 0) -> float:
    """Distance driven at a constant speed.

    speed: Speed in km/h.
    hours: Hours on the way.
    pause: Minutes of breaks, in which one does not move.
    """
    return round(speed * (hours - pause / 60), 4)


@asked(
    "Add {person} with the number {phone} to my contacts[ in the group {group}].",
    "Save the phone number {phone} for {person}[, group {group}].",
    "New contact: {person}, phone {phone}[, belongs to {group}].",
    person="person", phone="int 2000000 9999999", group="of family|work|sports",
)  # fmt: skip
def add_contact(person: str, phone: str, group: str = "none") -> str:
    """Add a contact to the address book.

    person: Full name.
    phone: Phone number, digits only.
    group: Group of the contact.
    """
    return f"{person}|{phone}|{group}"


@asked(
    "Interest on {amount} dollars at {rate} percent for {years} years[, {times} times a year].",
    "I invest {amount} dollars for {years} years at {rate}%[, paid {times} times a year]. Result?",
    "{amount} dollars earn {rate} percent. Value after {years} years[, {times} payments a year]?",
    amount="int 500 9000", rate="float 1 9 0.5", years="int 2 30", times="int 2 12",
)  # fmt: skip
def compound(amount: float, rate: float, years: int, times: int = 1) -> float:
    """Value of an investment with compound interest.

    amount: Invested amount in dollars.
    rate: Interest rate in percent a year.
    years: Number of years.
    times: How often a year interest is added.
    """
    return round(amount * (1 + rate / 100 / times) ** (years * times), 2)


@asked(
    "What will the weather be in {city}[ in {days} days]?",
    "Weather forecast for {city}[, {days} days ahead], please.",
    "Do I need an umbrella in {city}[ {days} days from now]?",
    city="city", days="int 2 9",
)  # fmt: skip
def forecast(city: str, days: int = 0) -> str:
    """Weather forecast of a city.

    city: Name of the city.
    days: Days from today.
    """
    return f"{city}+{days}"


@asked(
    "Remind me on {date} to call {person}[, {hours} hours before].",
    "I must call {person} on {date}. Set a reminder[ {hours} hours earlier].",
    date="date", person="person", hours="int 2 12",
)  # fmt: skip
def remind_call(person: str, date: str, hours: int = 1) -> str:
    """Remind the user of a call.

    person: Who is to be called.
    date: Day of the call in the format YYYY-MM-DD.
    hours: Hours before the call.
    """
    return f"{person}@{date}-{hours}"


@asked(
    "Tiles of {tile} cm for a floor of {length} by {width} cm[, with {spare} spare ones]?",
    "My floor is {length} cm by {width} cm, a tile {tile} cm. How many[, plus {spare} spare]?",
    length="int 200 900", width="int 200 900", tile="int 10 50", spare="int 2 20",
)  # fmt: skip
def count_tiles(length: int, width: int, tile: int, spare: int = 0) -> str:
    """Square tiles needed for a floor.

    length: Length of the floor in cm.
    width: Width of the floor in cm.
    tile: Side of a tile in cm.
    spare: Tiles to buy in addition.
    """
    tiles = -(-length // tile) * -(-width // tile)
    return f"{min(length, width)} {max(length, width)} {tiles} {spare}"


@asked(
    "Play {count} songs by {artist}[ from the {decade}].",
    "I would like to hear {artist}, {count} songs[ of the {decade}].",
    artist="person", count="int 2 20", decade="of 1970s|1980s|1990s|2000s",
)  # fmt: skip
def play_songs(artist: str, count: int, decade: str = "any") -> str:
    """Play songs by an artist.

    artist: Name of the artist.
    count: Number of songs.
    decade: Decade of the songs.
    """
    return f"{artist}|{count}|{decade}"


@asked(
    "Transfer {amount} dollars to {person}[ on {date}].",
    "Pay {person} {amount} dollars[, not before {date}].",
    "{person} should get {amount} dollars from me[ on {date}].",
    person="person", amount="int 10 900", date="date",
)  # fmt: skip
def transfer(person: str, amount: float, date: str = "today") -> str:
    """Transfer money to a person.

    person: Who gets the money.
    amount: Amount in dollars.
    date: Day of the transfer in the format YYYY-MM-DD.
    """
    return f"{person}|{float(amount)}|{date}"


@asked(
    "Draw a {color} circle with a radius of {radius}[ and a border of {border}].",
    "A circle of radius {radius}, {color}[, border {border}], please.",
    radius="int 5 90", color="of red|green|blue|black|yellow", border="int 2 9",
)  # fmt: skip
def draw_circle(radius: int, color: str, border: int = 1) -> str:
    """Draw a circle.

    radius: Radius in pixels.
    color: Colour of the circle.
    border: Width of the border in pixels.
    """
    return f"{radius}|{color}|{border}"


@asked(
    "Sort the names {names}[ in {order} order].",
    "Put {names} into alphabetical order[, {order}].",
    names="names 3", order="of descending|reversed",
)  # fmt: skip
def sort_names(names: list[str], order: str = "ascending") -> str:
    """Sort names.

    names: The names.
    order: Direction.
    """
    return f"{sorted(names, reverse=order != 'ascending')} {order}"


@asked(
    "Start a timer of {minutes} minutes[ named {label}].",
    "Set the timer to {minutes} minutes[ and call it {label}].",
    minutes="int 2 90", label="of tea|pasta|laundry|workout",
)  # fmt: skip
def start_timer(minutes: int, label: str = "timer") -> str:
    """Start a timer.

    minutes: Minutes until it rings.
    label: Name of the timer.
    """
    return f"{minutes}|{label}"


@asked(
    "Is {number} divisible by {divisor}?",
    "Check whether {divisor} divides {number}.",
    "Can {number} be divided by {divisor} without remainder?",
    number="int 100 999", divisor="int 2 30",
)  # fmt: skip
def is_divisible(number: int, divisor: int) -> str:
    """Tell whether a number can be divided by another.

    number: The number that is divided.
    divisor: The number that divides.
    """
    return f"{number}%{divisor}={number % divisor}"


@asked(
    "Order {count} boxes of {item} for {person}[ to be delivered in {city}].",
    "{person} needs {count} boxes of {item}[, deliver to {city}].",
    item="of paper|pens|coffee|batteries|gloves", count="int 2 30", person="person", city="city",
)  # fmt: skip
def order_boxes(item: str, count: int, person: str, city: str = "office") -> str:
    """Order boxes of a good.

    item: What is ordered.
    count: Number of boxes.
    person: Who has asked for it.
    city: City of delivery.
    """
    return f"{item}|{count}|{person}|{city}"


@asked(
    "Translate {text} into {language}[ in a {tone} tone].",
    "How does one say {text} in {language}[, {tone} please]?",
    text="of good morning|thank you|where is the station|see you soon|happy birthday",
    language="of French|Spanish|German|Italian|Dutch", tone="of formal|friendly|poetic",
)  # fmt: skip
def translate(text: str, language: str, tone: str = "neutral") -> str:
    """Translate a text.

    text: What is to be translated.
    language: Language of the result.
    tone: Tone of the result.
    """
    return f"{text}|{language}|{tone}"


@asked(
    "How much water do {people} hikers need for {days} days[ at {litres} litres a day each]?",
    "{people} people walk for {days} days. How many litres[ if each drinks {litres} a day]?",
    people="int 2 15", days="int 2 12", litres="float 1.5 5 0.5",
)  # fmt: skip
def water_needed(days: int, people: int, litres: float = 3) -> str:
    """Water needed for a hike.

    days: Days of the hike.
    people: Number of hikers.
    litres: Litres a day for each.
    """
    return f"{days}d {people}p {days * people * litres}"


@asked(
    "Rename the file {old} to {new}.txt[ in the folder {folder}].",
    "The file {old} should be called {new}.txt[; it lies in {folder}].",
    old="of notes.txt|draft.txt|plan.txt|todo.txt", new="of final|summer|budget|letter",
    folder="of archive|desktop|projects",
)  # fmt: skip
def rename_file(old: str, new: str, folder: str = "home") -> str:
    """Rename a text file.

    old: Present name.
    new: New name without its ending.
    folder: Folder of the file.
    """
    return f"{folder}/{old}->{new}"


@asked(
    "What is {percent} percent of {whole}[ rounded to {digits} digits]?",
    "Take {percent}% of {whole}[ and give {digits} digits].",
    percent="int 2 95", whole="int 40 990", digits="int 1 3",
)  # fmt: skip
def percent_of(whole: float, percent: float, digits: int = 2) -> str:
    """A share of a number.

    whole: The number.
    percent: The share in percent.
    digits: Digits after the point.
    """
    return f"{float(whole)}:{float(percent)}:{whole * percent / 100:.{digits}f}"


@asked(
    "Find jobs as a {job} in {city}[ that pay at least {salary} dollars].",
    "I am looking for work as a {job} in {city}[, for {salary} dollars or more].",
    job="of nurse|teacher|plumber|designer|cook", city="city", salary="int 2000 9000",
)  # fmt: skip
def find_jobs(city: str, job: str, salary: int = 0) -> str:
    """Find open jobs.

    city: City of the job.
    job: Kind of job.
    salary: Least salary in dollars a month.
    """
    return f"{city}|{job}|{salary}"


@asked(
    "Water the {plant} for {seconds} seconds[ every {days} days].",
    "Give the {plant} water, {seconds} seconds long[, each {days} days].",
    plant="of roses|tomatoes|lawn|herbs", seconds="int 10 300", days="int 2 7",
)  # fmt: skip
def water_plants(plant: str, seconds: int, days: int = 1) -> str:
    """Water plants in the garden.

    plant: Which plants.
    seconds: How long the water runs.
    days: Days between two waterings.
    """
    return f"{plant}|{seconds}|{days}"
