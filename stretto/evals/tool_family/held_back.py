"""Tools and requests that are kept for measuring; see :mod:`stretto.evals.tool_family`."""

from stretto.evals.tool_family.entry import Catalogue

HELD_BACK = Catalogue()
asked = HELD_BACK.asked


@asked(
    "Rent a car in {city} for {days} days[ with {seats} seats].",
    "I need a rental car for {days} days in {city}[; it should have {seats} seats].",
    "Car hire, {city}, {days} days[, {seats} seats], please.",
    city="city", days="int 2 28", seats="int 6 9",
)  # fmt: skip
def rent_car(city: str, days: int, seats: int = 5) -> str:
    """Rent a car.

    city: City where the car is picked up.
    days: Number of days.
    seats: Number of seats.
    """
    return f"{city}|{days}|{seats}"


@asked(
    "What is the body mass index of someone {height} cm tall who weighs {weight} kg?",
    "I weigh {weight} kg and am {height} cm tall. What is my BMI?",
    weight="int 45 120", height="int 145 205",
)  # fmt: skip
def body_mass_index(weight: float, height: float) -> float:
    """Body mass index of a person.

    weight: Weight in kg.
    height: Height in cm.
    """
    return round(weight / (height / 100) ** 2, 4)


@asked(
    "Look up {count} recipes with {food}[ that are {diet}].",
    "What can I cook with {food}? Show {count} recipes[, {diet} only].",
    food="of rice|lentils|potatoes|mushrooms|spinach", count="int 2 15",
    diet="of vegan|vegetarian|kosher",
)  # fmt: skip
def find_recipes(food: str, count: int, diet: str = "any") -> str:
    """Find recipes.

    food: Main ingredient.
    count: Number of recipes.
    diet: Diet they must fit.
    """
    return f"{food}|{count}|{diet}"


@asked(
    "Split a bill of {bill} dollars among {friends} friends[ with a tip of {tip} percent].",
    "{friends} of us share a bill of {bill} dollars[ and leave a {tip}% tip]. How much each?",
    bill="float 20 300 0.5", friends="int 2 11", tip="int 5 25",
)  # fmt: skip
def split_bill(bill: float, friends: int, tip: float = 0) -> float:
    """Share of a bill that each person pays.

    bill: The bill in dollars.
    friends: Number of persons.
    tip: Tip in percent.
    """
    return round(bill * (1 + tip / 100) / max(1, friends), 4)


@asked(
    "Invite {person} to a meeting on {date}[ for {minutes} minutes].",
    "Set up a meeting with {person} on {date}[, {minutes} minutes long].",
    "On {date} I meet {person}[ for {minutes} minutes]; put it into the calendar.",
    person="person", date="date", minutes="int 15 180",
)  # fmt: skip
def plan_meeting(date: str, person: str, minutes: int = 60) -> str:
    """Put a meeting into the calendar.

    date: Day of the meeting in the format YYYY-MM-DD.
    person: Whom the user meets.
    minutes: Length of the meeting.
    """
    return f"{date}|{person}|{minutes}"


@asked(
    "How much paint for a wall {width} m wide and {height} m high[ with {coats} coats]?",
    "The wall is {height} m high and {width} m wide. Litres of paint[ for {coats} coats]?",
    width="float 2 12 0.5", height="float 2 6 0.5", coats="int 2 4",
)  # fmt: skip
def paint_needed(width: float, height: float, coats: int = 1) -> str:
    """Paint needed for a wall.

    width: Width of the wall in metres.
    height: Height of the wall in metres.
    coats: Number of coats.
    """
    return f"{float(width)}x{float(height)}: {width * height * coats / 8:.4f}"


@asked(
    "Turn the light in the {room} to {level} percent[ and make it {color}].",
    "Set the {room} light to {level}%[ in {color}].",
    room="of kitchen|bedroom|bathroom|hall|office", level="int 5 100",
    color="of red|blue|green|orange",
)  # fmt: skip
def set_light(room: str, level: int, color: str = "white") -> str:
    """Set the light of a room.

    room: The room.
    level: Brightness in percent.
    color: Colour of the light.
    """
    return f"{room}|{level}|{color}"


@asked(
    "What is the largest of {values}[ when the first {skip} are ignored]?",
    "Given {values}, find the maximum[, leaving out the first {skip}].",
    values="ints 5 1 500", skip="int 1 3",
)  # fmt: skip
def largest(values: list[int], skip: int = 0) -> str:
    """Largest of some whole numbers.

    values: The numbers.
    skip: How many at the beginning are ignored.
    """
    return f"{values} {skip} {max(values[skip:], default=None)}"


@asked(
    "Book a hotel in {city} for {nights} nights from {arrival}[ for {guests} guests].",
    "From {arrival} I stay {nights} nights in {city}[ with {guests} guests in all]; book a hotel.",
    city="city", nights="int 2 14", arrival="date", guests="int 2 6",
)  # fmt: skip
def book_hotel(city: str, arrival: str, nights: int, guests: int = 1) -> str:
    """Book a hotel.

    city: City of the hotel.
    arrival: First day in the format YYYY-MM-DD.
    nights: Number of nights.
    guests: Number of guests.
    """
    return f"{city}|{arrival}|{nights}|{guests}"


@asked(
    "Change {amount} {source} into {target}.",
    "How many {target} do I get for {amount} {source}?",
    amount="int 10 990", source="of euros|pounds|yen|francs", target="of dollars|pesos|rupees",
)  # fmt: skip
def change_money(target: str, source: str, amount: float) -> str:
    """Change money.

    target: Currency that one gets.
    source: Currency that one has.
    amount: Amount that one has.
    """
    return f"{float(amount)} {source}>{target}"


@asked(
    "Create a group chat named {title} with {members}.",
    "Put {members} into a new group called {title}.",
    members="names 3", title="of Hiking|Chess|Choir|Gardeners",
)  # fmt: skip
def create_group(title: str, members: list[str]) -> str:
    """Create a group chat.

    title: Name of the group.
    members: First names of its members.
    """
    return f"{title}|{sorted(members)}"


@asked(
    "How much energy does a {watts} watt lamp use in {hours} hours[ a day over {days} days]?",
    "A lamp of {watts} watts burns {hours} hours[ daily for {days} days]. Energy used?",
    watts="int 5 150", hours="int 2 24", days="int 2 30",
)  # fmt: skip
def energy_used(watts: float, hours: float, days: int = 1) -> str:
    """Energy that a lamp uses.

    watts: Power of the lamp in watts.
    hours: Hours a day.
    days: Number of days.
    """
    return f"{float(watts)} W {watts * hours * days / 1000:.4f} kWh"


@asked(
    "Send a parcel of {weight} kg to {person} in {city}[ by {service}].",
    "{person} in {city} should get a parcel that weighs {weight} kg[; use {service}].",
    weight="float 0.5 20 0.5", person="person", city="city", service="of express|courier|freight",
)  # fmt: skip
def send_parcel(person: str, city: str, weight: float, service: str = "standard") -> str:
    """Send a parcel.

    person: Who gets it.
    city: City where it goes.
    weight: Weight in kg.
    service: Way of sending.
    """
    return f"{person}|{city}|{float(weight)}|{service}"


@asked(
    "Log a run of {distance} km in {minutes} minutes[ on {day}].",
    "I ran {distance} km and it took {minutes} minutes[; that was on {day}]. Note it.",
    distance="float 2 42 0.5", minutes="int 10 240",
    day="of Monday|Tuesday|Wednesday|Friday|Sunday",
)  # fmt: skip
def log_run(distance: float, minutes: int, day: str = "today") -> str:
    """Note a run in the training log.

    distance: Distance in km.
    minutes: Time in minutes.
    day: Day of the run.
    """
    return f"{float(distance)}|{minutes}|{day}"


@asked(
    "Find hotels with {stars} stars near {place}[ below {price} dollars a night].",
    "Which {stars} star hotels are near {place}[ and cost less than {price} dollars]?",
    stars="int 2 5", place="of the airport|the harbour|the museum|the castle", price="int 50 400",
)  # fmt: skip
def search_hotels(place: str, stars: int, price: int = 1000) -> str:
    """Search hotels.

    place: What they are near to.
    stars: Number of stars.
    price: Highest price a night in dollars.
    """
    return f"{place}|{stars}|{price}"


@asked(
    "Write an invoice of {amount} dollars for {customer}[ that is due in {days} days].",
    "Bill {customer} {amount} dollars[, to be paid within {days} days].",
    customer="person", amount="int 50 5000", days="int 7 60",
)  # fmt: skip
def write_invoice(customer: str, amount: float, days: int = 30) -> str:
    """Write an invoice.

    customer: Who has to pay.
    amount: Amount in dollars.
    days: Days until it is due.
    """
    return f"{customer}|{float(amount)}|{days}"
