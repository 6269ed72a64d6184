"""Small coding tasks with a right solution and wrong ones, for the tests of `pass_rate`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CodingTask:
    """One task. The solution's code is run first, the tests' code afterwards, in the same module namespace."""

    name: str  # unique, snake_case
    entry_point: str  # the function or class that the tests call
    tests: str  # unittest classes, top-level asserts, `def test_...()` functions, or HumanEval's `def check(candidate)`
    solution: str  # passes every test
    broken: tuple[str, ...]  # each fails at least one test


UNITTEST_TASKS: tuple[CodingTask, ...] = (
    CodingTask(
        name="palindrome",
        entry_point="is_palindrome",
        tests="""\
import unittest


class TestIsPalindrome(unittest.TestCase):
    def test_simple(self):
        self.assertTrue(is_palindrome("level"))

    def test_not_a_palindrome(self):
        self.assertFalse(is_palindrome("python"))

    def test_case_and_punctuation(self):
        self.assertTrue(is_palindrome("A man, a plan, a canal: Panama!"))

    def test_empty(self):
        self.assertTrue(is_palindrome(""))
""",
        solution="""\
def is_palindrome(text):
    letters = [c.lower() for c in text if c.isalnum()]
    return letters == letters[::-1]
""",
        broken=(
            # Leaves the punctuation in.
            """\
def is_palindrome(text):
    text = text.lower()
    return text == text[::-1]
""",
            # An empty string is not one.
            """\
def is_palindrome(text):
    letters = [c.lower() for c in text if c.isalnum()]
    if not letters:
        return False
    return letters == letters[::-1]
""",
            # Prints instead of returning.
            """\
def is_palindrome(text):
    letters = [c.lower() for c in text if c.isalnum()]
    print(letters == letters[::-1])
""",
        ),
    ),
    CodingTask(
        name="bank_account",
        entry_point="BankAccount",
        tests="""\
import unittest


class TestBankAccount(unittest.TestCase):
    def setUp(self):
        self.account = BankAccount("Ada", 100)

    def test_deposit(self):
        self.account.deposit(50)
        self.assertEqual(self.account.balance, 150)

    def test_withdraw(self):
        self.account.withdraw(30)
        self.assertEqual(self.account.balance, 70)

    def test_withdraw_everything(self):
        self.account.withdraw(100)
        self.assertEqual(self.account.balance, 0)

    def test_overdraft(self):
        with self.assertRaises(ValueError):
            self.account.withdraw(101)
        self.assertEqual(self.account.balance, 100)

    def test_negative_deposit(self):
        with self.assertRaises(ValueError):
            self.account.deposit(-1)


class TestNewAccount(unittest.TestCase):
    def test_default_balance(self):
        self.assertEqual(BankAccount("Bob").balance, 0)

    def test_owner(self):
        self.assertEqual(BankAccount("Bob").owner, "Bob")
""",
        solution="""\
class BankAccount:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount

    def withdraw(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        if amount > self.balance:
            raise ValueError("insufficient funds")
        self.balance -= amount
""",
        broken=(
            # The whole balance cannot be withdrawn.
            """\
class BankAccount:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount

    def withdraw(self, amount):
        if amount >= self.balance:
            raise ValueError("insufficient funds")
        self.balance -= amount
""",
            # Takes the money before it checks.
            """\
class BankAccount:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount

    def withdraw(self, amount):
        self.balance -= amount
        if self.balance < 0:
            raise ValueError("insufficient funds")
""",
            # No default balance: the second class errs.
            """\
class BankAccount:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("insufficient funds")
        self.balance -= amount
""",
        ),
    ),
    CodingTask(
        name="fetch_all",
        entry_point="fetch_all",
        tests="""\
import asyncio
import unittest


class TestFetchAll(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.running = 0
        self.most = 0

    async def fetch(self, url):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01 if url.endswith("slow") else 0)
        self.running -= 1
        if url.endswith("bad"):
            raise OSError(url)
        return url.upper()

    async def test_keeps_the_order(self):
        self.assertEqual(await fetch_all(self.fetch, ["a/slow", "b"]), ["A/SLOW", "B"])

    async def test_concurrent(self):
        await fetch_all(self.fetch, ["a/slow", "b/slow", "c/slow"])
        self.assertEqual(self.most, 3)

    async def test_failure_is_none(self):
        self.assertEqual(await fetch_all(self.fetch, ["a", "b/bad", "c"]), ["A", None, "C"])

    async def test_empty(self):
        self.assertEqual(await fetch_all(self.fetch, []), [])
""",
        solution="""\
import asyncio


async def fetch_all(fetch, urls):
    results = await asyncio.gather(*(fetch(url) for url in urls), return_exceptions=True)
    return [None if isinstance(result, Exception) else result for result in results]
""",
        broken=(
            # One failure fails all.
            """\
import asyncio


async def fetch_all(fetch, urls):
    return list(await asyncio.gather(*(fetch(url) for url in urls)))
""",
            # One after another.
            """\
async def fetch_all(fetch, urls):
    results = []
    for url in urls:
        try:
            results.append(await fetch(url))
        except OSError:
            results.append(None)
    return results
""",
            # In the order of completion.
            """\
import asyncio


async def fetch_all(fetch, urls):
    results = []
    for task in asyncio.as_completed([fetch(url) for url in urls]):
        try:
            results.append(await task)
        except OSError:
            results.append(None)
    return results
""",
            # Not a coroutine function.
            """\
def fetch_all(fetch, urls):
    return [fetch(url) for url in urls]
""",
        ),
    ),
    CodingTask(
        name="roman_numerals",
        entry_point="to_roman",
        tests="""\
import unittest


class TestToRoman(unittest.TestCase):
    CASES = ((1, "I"), (3, "III"), (4, "IV"), (9, "IX"), (40, "XL"), (90, "XC"), (400, "CD"), (1994, "MCMXCIV"))

    def test_known_values(self):
        for number, numeral in self.CASES:
            with self.subTest(number=number):
                self.assertEqual(to_roman(number), numeral)

    def test_additive_values(self):
        self.assertEqual(to_roman(2026), "MMXXVI")

    def test_out_of_range(self):
        for number in (0, -1, 4000):
            with self.subTest(number=number), self.assertRaises(ValueError):
                to_roman(number)
""",
        solution="""\
NUMERALS = [
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
    (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
]


def to_roman(number):
    if not 0 < number < 4000:
        raise ValueError(f"{number} is out of range")
    result = ""
    for value, numeral in NUMERALS:
        count, number = divmod(number, value)
        result += numeral * count
    return result
""",
        broken=(
            # No subtractive numerals.
            """\
def to_roman(number):
    if not 0 < number < 4000:
        raise ValueError(f"{number} is out of range")
    result = ""
    for value, numeral in [(1000, "M"), (500, "D"), (100, "C"), (50, "L"), (10, "X"), (5, "V"), (1, "I")]:
        count, number = divmod(number, value)
        result += numeral * count
    return result
""",
            # No check of the range.
            """\
def to_roman(number):
    numerals = [
        (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
        (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
    ]
    result = ""
    for value, numeral in numerals:
        while number >= value:
            result += numeral
            number -= value
    return result
""",
        ),
    ),
    CodingTask(
        name="parse_settings",
        entry_point="parse_settings",
        tests="""\
import unittest


class TestParseSettings(unittest.TestCase):
    def test_defaults(self):
        self.assertEqual(parse_settings("{}"), {"debug": False, "port": 8080})

    def test_override(self):
        self.assertEqual(parse_settings('{"port": 9000}')["port"], 9000)

    def test_extra_keys_are_kept(self):
        self.assertEqual(parse_settings('{"name": "x"}')["name"], "x")

    def test_bad_json(self):
        with self.assertRaisesRegex(ValueError, "^invalid settings"):
            parse_settings("{port: 1}")

    def test_not_an_object(self):
        with self.assertRaises(TypeError):
            parse_settings("[1, 2]")

    def test_calls_are_independent(self):
        parse_settings('{"port": 1}')
        self.assertEqual(parse_settings("{}")["port"], 8080)
""",
        solution="""\
import json

DEFAULTS = {"debug": False, "port": 8080}


def parse_settings(text):
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid settings: {error}") from error
    if not isinstance(settings, dict):
        raise TypeError("settings must be an object")
    return {**DEFAULTS, **settings}
""",
        broken=(
            # Changes the defaults.
            """\
import json

DEFAULTS = {"debug": False, "port": 8080}


def parse_settings(text):
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid settings: {error}") from error
    if not isinstance(settings, dict):
        raise TypeError("settings must be an object")
    DEFAULTS.update(settings)
    return DEFAULTS
""",
            # Lets the parser's own message through.
            """\
import json


def parse_settings(text):
    settings = json.loads(text)
    if not isinstance(settings, dict):
        raise TypeError("settings must be an object")
    return {"debug": False, "port": 8080, **settings}
""",
            # The defaults win.
            """\
import json


def parse_settings(text):
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid settings: {error}") from error
    if not isinstance(settings, dict):
        raise TypeError("settings must be an object")
    return {**settings, "debug": False, "port": 8080}
""",
        ),
    ),
    CodingTask(
        name="csv_totals",
        entry_point="totals_by_category",
        tests=r"""
import io
import unittest

DATA = 'category,amount\nfood,10.50\n"books, used",4\nfood,2.25\n'


class TestTotals(unittest.TestCase):
    def test_sums(self):
        self.assertAlmostEqual(totals_by_category(io.StringIO(DATA))["food"], 12.75)

    def test_quoted_comma(self):
        self.assertAlmostEqual(totals_by_category(io.StringIO(DATA))["books, used"], 4.0)

    def test_other_column_order(self):
        self.assertEqual(totals_by_category(io.StringIO("amount,category\n3,tea\n")), {"tea": 3.0})

    def test_header_only(self):
        self.assertEqual(totals_by_category(io.StringIO("category,amount\n")), {})
""",
        solution="""\
import csv
from collections import defaultdict


def totals_by_category(file):
    totals = defaultdict(float)
    for row in csv.DictReader(file):
        totals[row["category"]] += float(row["amount"])
    return dict(totals)
""",
        broken=(
            # Splits at the quoted comma.
            """\
def totals_by_category(file):
    header = next(file).strip().split(",")
    totals = {}
    for line in file:
        row = dict(zip(header, line.strip().split(",")))
        totals[row["category"]] = totals.get(row["category"], 0) + float(row["amount"])
    return totals
""",
            # Keeps the last amount only.
            """\
import csv


def totals_by_category(file):
    return {row["category"]: float(row["amount"]) for row in csv.DictReader(file)}
""",
            # Relies on the order of the columns.
            """\
import csv


def totals_by_category(file):
    rows = csv.reader(file)
    next(rows)
    totals = {}
    for category, amount in rows:
        totals[category] = totals.get(category, 0.0) + float(amount)
    return totals
""",
        ),
    ),
    CodingTask(
        name="count_calls",
        entry_point="count_calls",
        tests='''\
import unittest


class TestCountCalls(unittest.TestCase):
    def test_counts(self):
        @count_calls
        def add(a, b=1):
            return a + b

        self.assertEqual(add.calls, 0)
        self.assertEqual(add(1), 2)
        self.assertEqual(add(1, b=5), 6)
        self.assertEqual(add.calls, 2)

    def test_keeps_the_name(self):
        @count_calls
        def greet():
            """Say hello."""

        self.assertEqual(greet.__name__, "greet")
        self.assertEqual(greet.__doc__, "Say hello.")

    def test_separate_counters(self):
        first = count_calls(lambda: None)
        second = count_calls(lambda: None)
        first()
        self.assertEqual((first.calls, second.calls), (1, 0))

    def test_counts_failures(self):
        @count_calls
        def fail():
            raise KeyError("x")

        with self.assertRaises(KeyError):
            fail()
        self.assertEqual(fail.calls, 1)
''',
        solution="""\
import functools


def count_calls(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        wrapper.calls += 1
        return function(*args, **kwargs)

    wrapper.calls = 0
    return wrapper
""",
        broken=(
            # Loses the name.
            """\
def count_calls(function):
    def wrapper(*args, **kwargs):
        wrapper.calls += 1
        return function(*args, **kwargs)

    wrapper.calls = 0
    return wrapper
""",
            # Loses the result.
            """\
import functools


def count_calls(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        wrapper.calls += 1
        function(*args, **kwargs)

    wrapper.calls = 0
    return wrapper
""",
            # Does not count a call that raises.
            """\
import functools


def count_calls(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        result = function(*args, **kwargs)
        wrapper.calls += 1
        return result

    wrapper.calls = 0
    return wrapper
""",
        ),
    ),
    CodingTask(
        name="longest_line",
        entry_point="longest_line",
        tests=r"""
import os
import tempfile
import unittest


class TestLongestLine(unittest.TestCase):
    def write(self, text):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "text.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def test_number_and_text(self):
        self.assertEqual(longest_line(self.write("a\nccc\nbb\n")), (2, "ccc"))

    def test_first_of_equals(self):
        self.assertEqual(longest_line(self.write("aaa\nbbb\n")), (1, "aaa"))

    def test_no_final_newline(self):
        self.assertEqual(longest_line(self.write("ab\ncd\nef!")), (3, "ef!"))

    def test_empty_file(self):
        self.assertIsNone(longest_line(self.write("")))

    def test_missing_file(self):
        with self.assertRaises(FileNotFoundError):
            longest_line("no-such-file.txt")
""",
        solution="""\
def longest_line(path):
    best = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file.read().splitlines(), start=1):
            if best is None or len(line) > len(best[1]):
                best = (number, line)
    return best
""",
        broken=(
            # Counts the lines from zero.
            """\
def longest_line(path):
    best = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file.read().splitlines()):
            if best is None or len(line) > len(best[1]):
                best = (number, line)
    return best
""",
            # The last of equals.
            """\
def longest_line(path):
    best = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file.read().splitlines(), start=1):
            if best is None or len(line) >= len(best[1]):
                best = (number, line)
    return best
""",
            # max() of nothing.
            """\
def longest_line(path):
    with open(path, encoding="utf-8") as file:
        lines = list(enumerate(file.read().splitlines(), start=1))
    return max(lines, key=lambda item: len(item[1]))
""",
            # Hides that the file is missing.
            """\
import os


def longest_line(path):
    if not os.path.exists(path):
        return None
    best = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file.read().splitlines(), start=1):
            if best is None or len(line) > len(best[1]):
                best = (number, line)
    return best
""",
        ),
    ),
    CodingTask(
        name="token_expiry",
        entry_point="is_expired",
        tests="""\
import unittest
from unittest.mock import patch


class TestIsExpired(unittest.TestCase):
    def test_fresh(self):
        with patch("time.time", return_value=1000.0):
            self.assertFalse(is_expired({"issued": 990.0, "ttl": 60}))

    def test_old(self):
        with patch("time.time", return_value=2000.0):
            self.assertTrue(is_expired({"issued": 990.0, "ttl": 60}))

    @patch("time.time", return_value=1050.0)
    def test_exactly_at_the_end(self, clock):
        self.assertTrue(is_expired({"issued": 990.0, "ttl": 60}))
        clock.assert_called()

    @patch("time.time", return_value=1e12)
    def test_without_ttl_never_expires(self, clock):
        self.assertFalse(is_expired({"issued": 990.0}))
""",
        solution="""\
import time


def is_expired(token):
    ttl = token.get("ttl")
    if ttl is None:
        return False
    return time.time() >= token["issued"] + ttl
""",
        broken=(
            # Wrong at the boundary.
            """\
import time


def is_expired(token):
    ttl = token.get("ttl")
    return ttl is not None and time.time() > token["issued"] + ttl
""",
            # Expects a ttl.
            """\
import time


def is_expired(token):
    return time.time() >= token["issued"] + token["ttl"]
""",
        ),
    ),
    CodingTask(
        name="bounded_stack",
        entry_point="Stack",
        tests="""\
import unittest


class TestStack(unittest.TestCase):
    def test_last_in_first_out(self):
        stack = Stack()
        for item in "abc":
            stack.push(item)
        self.assertEqual([stack.pop(), stack.pop(), stack.pop()], ["c", "b", "a"])

    def test_pop_empty(self):
        self.assertRaises(IndexError, Stack().pop)

    def test_peek_does_not_remove(self):
        stack = Stack()
        stack.push(1)
        self.assertEqual(stack.peek(), 1)
        self.assertEqual(len(stack), 1)

    def test_limit(self):
        stack = Stack(limit=2)
        stack.push(1)
        stack.push(2)
        with self.assertRaises(OverflowError):
            stack.push(3)
        self.assertEqual(len(stack), 2)


class TestTruth(unittest.TestCase):
    def test_empty_is_false(self):
        self.assertFalse(Stack())

    def test_not_shared(self):
        Stack().push(1)
        self.assertEqual(len(Stack()), 0)
""",
        solution="""\
class Stack:
    def __init__(self, limit=None):
        self._items = []
        self._limit = limit

    def __len__(self):
        return len(self._items)

    def push(self, item):
        if self._limit is not None and len(self._items) >= self._limit:
            raise OverflowError("the stack is full")
        self._items.append(item)

    def pop(self):
        if not self._items:
            raise IndexError("the stack is empty")
        return self._items.pop()

    def peek(self):
        return self._items[-1]
""",
        broken=(
            # A queue.
            """\
class Stack:
    def __init__(self, limit=None):
        self._items = []
        self._limit = limit

    def __len__(self):
        return len(self._items)

    def push(self, item):
        if self._limit is not None and len(self._items) >= self._limit:
            raise OverflowError("the stack is full")
        self._items.append(item)

    def pop(self):
        return self._items.pop(0)

    def peek(self):
        return self._items[0]
""",
            # A mutable default argument.
            """\
class Stack:
    def __init__(self, limit=None, items=[]):
        self._items = items
        self._limit = limit

    def __len__(self):
        return len(self._items)

    def push(self, item):
        if self._limit is not None and len(self._items) >= self._limit:
            raise OverflowError("the stack is full")
        self._items.append(item)

    def pop(self):
        return self._items.pop()

    def peek(self):
        return self._items[-1]
""",
            # One too many.
            """\
class Stack:
    def __init__(self, limit=None):
        self._items = []
        self._limit = limit

    def __len__(self):
        return len(self._items)

    def push(self, item):
        if self._limit is not None and len(self._items) > self._limit:
            raise OverflowError("the stack is full")
        self._items.append(item)

    def pop(self):
        return self._items.pop()

    def peek(self):
        return self._items[-1]
""",
        ),
    ),
    CodingTask(
        name="collect_errors",
        entry_point="collect_errors",
        tests="""\
import unittest


class TestCollectErrors(unittest.TestCase):
    def test_nothing_raised(self):
        with collect_errors(ValueError) as errors:
            pass
        self.assertEqual(errors, [])

    def test_collected(self):
        with collect_errors(ValueError) as errors:
            int("x")
        self.assertEqual(len(errors), 1)
        self.assertIsInstance(errors[0], ValueError)

    def test_other_kinds_pass_through(self):
        with self.assertRaises(KeyError):
            with collect_errors(ValueError, TypeError):
                {}["missing"]

    def test_several_kinds(self):
        with collect_errors(ValueError, TypeError) as errors:
            len(3)
        self.assertEqual([type(error) for error in errors], [TypeError])
""",
        solution="""\
from contextlib import contextmanager


@contextmanager
def collect_errors(*kinds):
    errors = []
    try:
        yield errors
    except kinds as error:
        errors.append(error)
""",
        broken=(
            # Swallows everything.
            """\
from contextlib import contextmanager


@contextmanager
def collect_errors(*kinds):
    errors = []
    try:
        yield errors
    except Exception as error:
        errors.append(error)
""",
            # __exit__ does not say that the error is handled.
            """\
class collect_errors:
    def __init__(self, *kinds):
        self.kinds = kinds
        self.errors = []

    def __enter__(self):
        return self.errors

    def __exit__(self, kind, error, traceback):
        if isinstance(error, self.kinds):
            self.errors.append(error)
""",
            # Forgets the decorator.
            """\
def collect_errors(*kinds):
    errors = []
    try:
        yield errors
    except kinds as error:
        errors.append(error)
""",
        ),
    ),
    CodingTask(
        name="count_weekdays",
        entry_point="count_weekdays",
        tests="""\
import unittest
from datetime import date


class TestCountWeekdays(unittest.TestCase):
    def test_one_week(self):
        self.assertEqual(count_weekdays(date(2024, 1, 1), date(2024, 1, 7)), 5)

    def test_one_weekday(self):
        self.assertEqual(count_weekdays(date(2024, 1, 5), date(2024, 1, 5)), 1)

    def test_weekend(self):
        self.assertEqual(count_weekdays(date(2024, 1, 6), date(2024, 1, 7)), 0)

    def test_leap_day(self):
        self.assertEqual(count_weekdays(date(2024, 2, 28), date(2024, 3, 1)), 3)

    def test_reversed(self):
        with self.assertRaises(ValueError):
            count_weekdays(date(2024, 1, 2), date(2024, 1, 1))
""",
        solution="""\
from datetime import timedelta


def count_weekdays(start, end):
    if end < start:
        raise ValueError("end is before start")
    days = (end - start).days + 1
    return sum((start + timedelta(days=n)).weekday() < 5 for n in range(days))
""",
        broken=(
            # Leaves the last day out.
            """\
from datetime import timedelta


def count_weekdays(start, end):
    if end < start:
        raise ValueError("end is before start")
    return sum((start + timedelta(days=n)).weekday() < 5 for n in range((end - start).days))
""",
            # Sunday is 7 for isoweekday, Saturday 6.
            """\
from datetime import timedelta


def count_weekdays(start, end):
    if end < start:
        raise ValueError("end is before start")
    days = (end - start).days + 1
    return sum((start + timedelta(days=n)).isoweekday() < 5 for n in range(days))
""",
            # Ends the process before any test has run.
            """\
import sys
from datetime import date, timedelta


def count_weekdays(start, end):
    days = (end - start).days + 1
    return sum((start + timedelta(days=n)).weekday() < 5 for n in range(days))


print(count_weekdays(date(2024, 1, 1), date(2024, 1, 7)))
sys.exit(0)
""",
        ),
    ),
)

ASSERT_TASKS: tuple[CodingTask, ...] = (
    CodingTask(
        name="fizz_buzz",
        entry_point="fizz_buzz",
        tests="""\
assert fizz_buzz(1) == ["1"]
assert fizz_buzz(5) == ["1", "2", "Fizz", "4", "Buzz"]
assert fizz_buzz(15)[-1] == "FizzBuzz"
assert fizz_buzz(0) == []
""",
        solution="""\
def fizz_buzz(n):
    return [("Fizz" * (i % 3 == 0) + "Buzz" * (i % 5 == 0)) or str(i) for i in range(1, n + 1)]
""",
        broken=(
            # Off by one.
            """\
def fizz_buzz(n):
    return [("Fizz" * (i % 3 == 0) + "Buzz" * (i % 5 == 0)) or str(i) for i in range(1, n)]
""",
            # Checks 15 last.
            """\
def fizz_buzz(n):
    result = []
    for i in range(1, n + 1):
        if i % 3 == 0:
            result.append("Fizz")
        elif i % 5 == 0:
            result.append("Buzz")
        elif i % 15 == 0:
            result.append("FizzBuzz")
        else:
            result.append(str(i))
    return result
""",
            # Prints instead of returning.
            """\
def fizz_buzz(n):
    for i in range(1, n + 1):
        print(("Fizz" * (i % 3 == 0) + "Buzz" * (i % 5 == 0)) or str(i))
""",
        ),
    ),
    CodingTask(
        name="flatten",
        entry_point="flatten",
        tests="""\
assert flatten([1, 2, 3]) == [1, 2, 3]
assert flatten([1, [2, [3, [4]]]]) == [1, 2, 3, 4]
assert flatten([]) == []
assert flatten([[], [[]]]) == []

nested = ["ab", ["cd", (1, 2)]]
assert flatten(nested) == ["ab", "cd", 1, 2]
assert nested == ["ab", ["cd", (1, 2)]], "the argument was changed"
""",
        solution="""\
def flatten(items):
    result = []
    for item in items:
        if isinstance(item, (list, tuple)):
            result.extend(flatten(item))
        else:
            result.append(item)
    return result
""",
        broken=(
            # One level only.
            """\
def flatten(items):
    result = []
    for item in items:
        if isinstance(item, (list, tuple)):
            result.extend(item)
        else:
            result.append(item)
    return result
""",
            # Lists but not tuples.
            """\
def flatten(items):
    result = []
    for item in items:
        if isinstance(item, list):
            result.extend(flatten(item))
        else:
            result.append(item)
    return result
""",
            # A string holds strings for ever.
            """\
def flatten(items):
    result = []
    for item in items:
        try:
            result.extend(flatten(item))
        except TypeError:
            result.append(item)
    return result
""",
        ),
    ),
    CodingTask(
        name="word_counts",
        entry_point="word_counts",
        tests=r"""
assert word_counts("the cat the dog") == {"the": 2, "cat": 1, "dog": 1}
assert word_counts("") == {}

text = "Stop! stop, STOP... don't\nstop"
counts = word_counts(text)
assert counts["stop"] == 4
assert counts["don't"] == 1
assert len(counts) == 2
""",
        solution="""\
import re
from collections import Counter


def word_counts(text):
    return dict(Counter(re.findall(r"[a-z']+", text.lower())))
""",
        broken=(
            # Leaves the punctuation at the words.
            """\
def word_counts(text):
    counts = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts
""",
            # Splits at the apostrophe.
            r"""
import re
from collections import Counter


def word_counts(text):
    return dict(Counter(re.findall(r"\w+", text.lower())))
""",
            # A key that is not there yet.
            """\
import re


def word_counts(text):
    counts = {}
    for word in re.findall(r"[a-z']+", text.lower()):
        counts[word] += 1
    return counts
""",
        ),
    ),
    CodingTask(
        name="slugify",
        entry_point="slugify",
        tests="""\
assert slugify("Hello World") == "hello-world"
assert slugify("  Many   spaces  ") == "many-spaces"
assert slugify("Crème Brûlée") == "creme-brulee"
assert slugify("C++ & Rust!") == "c-rust"
assert slugify("???") == ""
""",
        solution="""\
import re
import unicodedata


def slugify(text):
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
""",
        broken=(
            # Drops the accented letters.
            """\
import re


def slugify(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
""",
            # Dashes at the ends.
            """\
import re
import unicodedata


def slugify(text):
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower())
""",
            # A syntax error.
            """\
import re
import unicodedata


def slugify(text)
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
""",
        ),
    ),
    CodingTask(
        name="chunked",
        entry_point="chunked",
        tests="""\
assert list(chunked([1, 2, 3, 4], 2)) == [[1, 2], [3, 4]]
assert list(chunked([1, 2, 3], 2)) == [[1, 2], [3]]
assert list(chunked([], 3)) == []
assert list(chunked(iter("abc"), 2)) == [["a", "b"], ["c"]]

# It is lazy: an endless input is fine.
import itertools

chunks = chunked(itertools.count(), 3)
assert next(chunks) == [0, 1, 2]
assert next(chunks) == [3, 4, 5]
""",
        solution="""\
from itertools import islice


def chunked(items, size):
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
""",
        broken=(
            # Loses the rest.
            """\
def chunked(items, size):
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
""",
            # Needs a sequence.
            """\
def chunked(items, size):
    for start in range(0, len(items), size):
        yield items[start : start + size]
""",
            # Tuples, not lists.
            """\
from itertools import islice


def chunked(items, size):
    iterator = iter(items)
    while chunk := tuple(islice(iterator, size)):
        yield chunk
""",
            # Yields one list and empties it.
            """\
def chunked(items, size):
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk.clear()
    if chunk:
        yield chunk
""",
        ),
    ),
    CodingTask(
        name="top_k",
        entry_point="top_k",
        tests="""\
assert top_k([3, 1, 4, 1, 5, 9, 2, 6], 3) == [9, 6, 5]
assert top_k([2, 2, 1], 2) == [2, 2]
assert top_k([1, 2], 5) == [2, 1]
assert top_k([1, 2], 0) == []
assert top_k([-5, -1, -3], 1) == [-1]
""",
        solution="""\
import heapq


def top_k(numbers, k):
    return heapq.nlargest(k, numbers)
""",
        broken=(
            # Ascending.
            """\
import heapq


def top_k(numbers, k):
    heap = []
    for number in numbers:
        heapq.heappush(heap, number)
        if len(heap) > k:
            heapq.heappop(heap)
    return sorted(heap)
""",
            # Drops the duplicates.
            """\
def top_k(numbers, k):
    return sorted(set(numbers), reverse=True)[:k]
""",
            # The whole list for k = 0.
            """\
def top_k(numbers, k):
    return sorted(numbers)[-k:][::-1]
""",
        ),
    ),
    CodingTask(
        name="money",
        entry_point="Money",
        tests="""\
import dataclasses

assert Money(5, "EUR") == Money(5, "EUR")
assert Money(5, "EUR") != Money(5, "USD")
assert Money(5, "EUR") + Money(7, "EUR") == Money(12, "EUR")
assert len({Money(1, "EUR"), Money(1, "EUR")}) == 1
assert Money(3).currency == "EUR"

try:
    Money(1, "EUR") + Money(1, "USD")
except ValueError:
    mixed = "refused"
else:
    mixed = "added"
assert mixed == "refused"

try:
    Money(1, "EUR").amount = 2
except dataclasses.FrozenInstanceError:
    changed = False
else:
    changed = True
assert not changed
""",
        solution="""\
from dataclasses import dataclass


@dataclass(frozen=True)
class Money:
    amount: int
    currency: str = "EUR"

    def __add__(self, other):
        if self.currency != other.currency:
            raise ValueError("the currencies differ")
        return Money(self.amount + other.amount, self.currency)
""",
        broken=(
            # Not frozen, so not hashable.
            """\
from dataclasses import dataclass


@dataclass
class Money:
    amount: int
    currency: str = "EUR"

    def __add__(self, other):
        if self.currency != other.currency:
            raise ValueError("the currencies differ")
        return Money(self.amount + other.amount, self.currency)
""",
            # Adds any currencies.
            """\
from dataclasses import dataclass


@dataclass(frozen=True)
class Money:
    amount: int
    currency: str = "EUR"

    def __add__(self, other):
        return Money(self.amount + other.amount, self.currency)
""",
            # The fields in the other order.
            """\
from dataclasses import dataclass


@dataclass(frozen=True)
class Money:
    currency: str
    amount: int = 0

    def __add__(self, other):
        if self.currency != other.currency:
            raise ValueError("the currencies differ")
        return Money(self.amount + other.amount, self.currency)
""",
        ),
    ),
    CodingTask(
        name="feature_flag",
        entry_point="flag_enabled",
        tests="""\
import os

os.environ.pop("CODING_TASK_FLAG", None)
assert flag_enabled("CODING_TASK_FLAG") is False
assert flag_enabled("CODING_TASK_FLAG", default=True) is True

os.environ["CODING_TASK_FLAG"] = "Yes"
assert flag_enabled("CODING_TASK_FLAG") is True
os.environ["CODING_TASK_FLAG"] = "0"
assert flag_enabled("CODING_TASK_FLAG", default=True) is False
os.environ["CODING_TASK_FLAG"] = " true "
assert flag_enabled("CODING_TASK_FLAG") is True
del os.environ["CODING_TASK_FLAG"]
""",
        solution="""\
import os


def flag_enabled(name, default=False):
    value = os.environ.get(name, "yes" if default else "no")
    return value.strip().lower() in {"1", "true", "yes", "on"}
""",
        broken=(
            # bool("0") is true.
            """\
import os


def flag_enabled(name, default=False):
    return bool(os.environ.get(name, default))
""",
            # No default: an error where the variable is not set.
            """\
import os


def flag_enabled(name, default=False):
    return os.environ[name].strip().lower() in {"1", "true", "yes", "on"}
""",
            # Does not strip.
            """\
import os


def flag_enabled(name, default=False):
    value = os.environ.get(name, "yes" if default else "no")
    return value.lower() in {"1", "true", "yes", "on"}
""",
        ),
    ),
    CodingTask(
        name="deal_cards",
        entry_point="deal",
        tests="""\
hands = deal(players=4, cards=5, seed=7)
assert len(hands) == 4
assert all(len(hand) == 5 for hand in hands)

dealt = [card for hand in hands for card in hand]
assert len(set(dealt)) == 20, "a card was dealt twice"
assert deal(players=4, cards=5, seed=7) == hands
assert deal(players=4, cards=5, seed=8) != hands

import random

random.seed(1)
expected = random.random()
random.seed(1)
deal(players=2, cards=2, seed=3)
assert random.random() == expected, "the global generator was used"
""",
        solution="""\
import random


def deal(players, cards, seed):
    deck = [rank + suit for suit in "CDHS" for rank in "23456789TJQKA"]
    random.Random(seed).shuffle(deck)
    return [deck[player * cards : (player + 1) * cards] for player in range(players)]
""",
        broken=(
            # Ignores the seed.
            """\
import random


def deal(players, cards, seed):
    deck = [rank + suit for suit in "CDHS" for rank in "23456789TJQKA"]
    random.shuffle(deck)
    return [deck[player * cards : (player + 1) * cards] for player in range(players)]
""",
            # Seeds the global generator.
            """\
import random


def deal(players, cards, seed):
    random.seed(seed)
    deck = [rank + suit for suit in "CDHS" for rank in "23456789TJQKA"]
    random.shuffle(deck)
    return [deck[player * cards : (player + 1) * cards] for player in range(players)]
""",
            # The hands overlap.
            """\
import random


def deal(players, cards, seed):
    deck = [rank + suit for suit in "CDHS" for rank in "23456789TJQKA"]
    random.Random(seed).shuffle(deck)
    return [deck[player : player + cards] for player in range(players)]
""",
        ),
    ),
    CodingTask(
        name="run_python",
        entry_point="run_python",
        tests="""\
output = run_python("print(1)")
assert output is not None, "nothing was returned"
assert isinstance(output, str), type(output)
assert output == "1", repr(output)
""",
        solution="""\
import subprocess
import sys


def run_python(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()
""",
        broken=(
            # Leaves the newline.
            """\
import subprocess
import sys


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
""",
            # Bytes, not text.
            """\
import subprocess
import sys


def run_python(code):
    return subprocess.check_output([sys.executable, "-c", code]).strip()
""",
            # The output is not captured.
            """\
import subprocess
import sys


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], text=True, check=True).stdout
""",
        ),
    ),
    CodingTask(
        name="digital_root",
        entry_point="digital_root",
        tests="""\
assert digital_root(0) == 0
assert digital_root(7) == 7
assert digital_root(38) == 2
assert digital_root(9) == 9
assert digital_root(999999999999) == 9
assert digital_root(-38) == 2
""",
        solution="""\
def digital_root(number):
    number = abs(number)
    while number > 9:
        number = sum(int(digit) for digit in str(number))
    return number
""",
        broken=(
            # Multiples of nine give 0.
            """\
def digital_root(number):
    return abs(number) % 9
""",
            # Sums once.
            """\
def digital_root(number):
    return sum(int(digit) for digit in str(abs(number)))
""",
            # The sign is not a digit.
            """\
def digital_root(number):
    digits = [int(digit) for digit in str(number)]
    return digits[0] if len(digits) == 1 else digital_root(sum(digits))
""",
            # Another name.
            """\
def digit_sum(number):
    number = abs(number)
    while number > 9:
        number = sum(int(digit) for digit in str(number))
    return number
""",
        ),
    ),
)

PYTEST_TASKS: tuple[CodingTask, ...] = (
    CodingTask(
        name="binary_search",
        entry_point="binary_search",
        tests="""\
def test_found():
    assert binary_search([1, 3, 5, 7, 9], 7) == 3


def test_ends():
    assert binary_search([1, 3, 5, 7, 9], 1) == 0
    assert binary_search([1, 3, 5, 7, 9], 9) == 4


def test_missing():
    assert binary_search([1, 3, 5], 4) == -1
    assert binary_search([1, 3, 5], 6) == -1


def test_empty():
    assert binary_search([], 1) == -1


def test_duplicates_give_the_first():
    assert binary_search([1, 2, 2, 2, 3], 2) == 1
""",
        solution="""\
from bisect import bisect_left


def binary_search(items, target):
    index = bisect_left(items, target)
    if index < len(items) and items[index] == target:
        return index
    return -1
""",
        broken=(
            # Never looks at the last one left.
            """\
def binary_search(items, target):
    low, high = 0, len(items) - 1
    while low < high:
        middle = (low + high) // 2
        if items[middle] == target:
            return middle
        if items[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1
""",
            # Any of the duplicates.
            """\
def binary_search(items, target):
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == target:
            return middle
        if items[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1
""",
            # Runs off the end.
            """\
from bisect import bisect_left


def binary_search(items, target):
    index = bisect_left(items, target)
    return index if items[index] == target else -1
""",
        ),
    ),
    CodingTask(
        name="merge_intervals",
        entry_point="merge_intervals",
        tests="""\
def test_overlap():
    assert merge_intervals([(1, 3), (2, 6), (8, 10)]) == [(1, 6), (8, 10)]


def test_touching():
    assert merge_intervals([(1, 4), (4, 5)]) == [(1, 5)]


def test_unsorted():
    assert merge_intervals([(6, 8), (1, 2), (2, 4)]) == [(1, 4), (6, 8)]


def test_contained():
    assert merge_intervals([(1, 10), (2, 3)]) == [(1, 10)]


def test_empty():
    assert merge_intervals([]) == []
""",
        solution="""\
def merge_intervals(intervals):
    merged = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
""",
        broken=(
            # An interval within another shortens it.
            """\
def merge_intervals(intervals):
    merged = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged
""",
            # Does not sort.
            """\
def merge_intervals(intervals):
    merged = []
    for start, end in intervals:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
""",
            # Touching ones stay apart.
            """\
def merge_intervals(intervals):
    merged = []
    for start, end in sorted(intervals):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
""",
        ),
    ),
    CodingTask(
        name="validate_age",
        entry_point="validate_age",
        tests="""\
def error_of(value):
    try:
        validate_age(value)
    except Exception as error:
        return type(error).__name__, str(error)
    return None


def test_valid():
    assert validate_age(30) == 30
    assert validate_age("41") == 41


def test_limits():
    assert validate_age(0) == 0
    assert validate_age(150) == 150


def test_out_of_range():
    assert error_of(-1) == ("InvalidAge", "age out of range: -1")
    assert error_of(151) == ("InvalidAge", "age out of range: 151")


def test_not_a_number():
    assert error_of("old") == ("InvalidAge", "not a number: old")


def test_is_a_value_error():
    assert issubclass(InvalidAge, ValueError)
""",
        solution="""\
class InvalidAge(ValueError):
    pass


def validate_age(value):
    try:
        age = int(value)
    except ValueError:
        raise InvalidAge(f"not a number: {value}") from None
    if not 0 <= age <= 150:
        raise InvalidAge(f"age out of range: {age}")
    return age
""",
        broken=(
            # A plain ValueError.
            """\
def validate_age(value):
    age = int(value)
    if not 0 <= age <= 150:
        raise ValueError(f"age out of range: {age}")
    return age
""",
            # Leaves the upper limit out.
            """\
class InvalidAge(ValueError):
    pass


def validate_age(value):
    try:
        age = int(value)
    except ValueError:
        raise InvalidAge(f"not a number: {value}") from None
    if age not in range(0, 150):
        raise InvalidAge(f"age out of range: {age}")
    return age
""",
            # Returns None instead of raising.
            """\
class InvalidAge(ValueError):
    pass


def validate_age(value):
    try:
        age = int(value)
    except ValueError:
        return None
    if 0 <= age <= 150:
        return age
    return None
""",
        ),
    ),
    CodingTask(
        name="parallel_map",
        entry_point="parallel_map",
        tests="""\
import threading
import time


def slow_square(number):
    time.sleep(0.1 if number == 1 else 0.01)
    return number * number


def test_order_of_the_input():
    assert parallel_map(slow_square, [1, 2, 3]) == [1, 4, 9]


def test_other_threads():
    names = parallel_map(lambda _: threading.current_thread().name, range(3))
    assert threading.current_thread().name not in names


def test_at_the_same_time():
    barrier = threading.Barrier(3, timeout=0.5)
    assert sorted(parallel_map(lambda _: barrier.wait(), range(3))) == [0, 1, 2]


def test_empty():
    assert parallel_map(slow_square, []) == []
""",
        solution="""\
import threading


def parallel_map(function, items):
    items = list(items)
    results = [None] * len(items)

    def work(index):
        results[index] = function(items[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
""",
        broken=(
            # In the order of completion.
            """\
import threading


def parallel_map(function, items):
    results = []
    lock = threading.Lock()

    def work(item):
        result = function(item)
        with lock:
            results.append(result)

    threads = [threading.Thread(target=work, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
""",
            # No threads.
            """\
def parallel_map(function, items):
    return [function(item) for item in items]
""",
            # Does not wait for them.
            """\
import threading


def parallel_map(function, items):
    items = list(items)
    results = [None] * len(items)

    def work(index):
        results[index] = function(items[index])

    for index in range(len(items)):
        threading.Thread(target=work, args=(index,)).start()
    return list(results)
""",
        ),
    ),
    CodingTask(
        name="notes_file",
        entry_point="add_note",
        tests=r"""
import os

PATH = "notes-of-the-test.txt"


def remove():
    if os.path.exists(PATH):
        os.remove(PATH)


def test_creates_the_file():
    remove()
    add_note(PATH, "first")
    assert read_notes(PATH) == ["first"]
    remove()


def test_appends():
    remove()
    for note in ("one", "two", "zwölf ☕"):
        add_note(PATH, note)
    assert read_notes(PATH) == ["one", "two", "zwölf ☕"]
    remove()


def test_one_line_a_note():
    remove()
    add_note(PATH, "a\nb")
    assert read_notes(PATH) == ["a b"]
    remove()


def test_missing_file():
    remove()
    assert read_notes(PATH) == []
""",
        solution="""\
from pathlib import Path


def add_note(path, note):
    with open(path, "a", encoding="utf-8") as file:
        print(" ".join(note.split()), file=file)


def read_notes(path):
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
""",
        broken=(
            # Overwrites.
            """\
from pathlib import Path


def add_note(path, note):
    with open(path, "w", encoding="utf-8") as file:
        print(" ".join(note.split()), file=file)


def read_notes(path):
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
""",
            # Keeps the line ends.
            r"""
import os


def add_note(path, note):
    with open(path, "a", encoding="utf-8") as file:
        file.write(" ".join(note.split()) + "\n")


def read_notes(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return file.readlines()
""",
            # Cannot write all of Unicode.
            """\
from pathlib import Path


def add_note(path, note):
    with open(path, "a", encoding="latin-1") as file:
        print(" ".join(note.split()), file=file)


def read_notes(path):
    try:
        return Path(path).read_text(encoding="latin-1").splitlines()
    except FileNotFoundError:
        return []
""",
        ),
    ),
    CodingTask(
        name="retry_decorator",
        entry_point="retry",
        tests="""\
def flaky(failures, error=ConnectionError):
    calls = []

    def function(value):
        calls.append(value)
        if len(calls) <= failures:
            raise error("try again")
        return value * 2

    return function, calls


def test_first_time():
    function, calls = flaky(0)
    assert retry(times=3)(function)(21) == 42
    assert len(calls) == 1


def test_last_time():
    function, calls = flaky(2)
    assert retry(times=3)(function)(21) == 42
    assert len(calls) == 3


def test_gives_up():
    function, calls = flaky(5)
    try:
        retry(times=3)(function)(21)
    except ConnectionError:
        pass
    else:
        raise AssertionError("no error was raised")
    assert len(calls) == 3


def test_other_errors_at_once():
    function, calls = flaky(1, error=KeyError)
    try:
        retry(times=3)(function)(21)
    except KeyError:
        pass
    assert len(calls) == 1


def test_as_a_decorator():
    @retry(times=2)
    def hello(name, mark="!"):
        return "hello " + name + mark

    assert hello("you", mark="?") == "hello you?"
""",
        solution="""\
import functools


def retry(times, errors=(ConnectionError, TimeoutError)):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            for attempt in range(1, times + 1):
                try:
                    return function(*args, **kwargs)
                except errors:
                    if attempt == times:
                        raise

        return wrapper

    return decorate
""",
        broken=(
            # Returns None when it gives up.
            """\
import functools


def retry(times, errors=(ConnectionError, TimeoutError)):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            for _ in range(times):
                try:
                    return function(*args, **kwargs)
                except errors:
                    pass

        return wrapper

    return decorate
""",
            # One call too many.
            """\
import functools


def retry(times, errors=(ConnectionError, TimeoutError)):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            for _ in range(times):
                try:
                    return function(*args, **kwargs)
                except errors:
                    pass
            return function(*args, **kwargs)

        return wrapper

    return decorate
""",
            # Retries any error.
            """\
import functools


def retry(times):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            for attempt in range(1, times + 1):
                try:
                    return function(*args, **kwargs)
                except Exception:
                    if attempt == times:
                        raise

        return wrapper

    return decorate
""",
            # Calls the function while it decorates.
            """\
def retry(times, errors=(ConnectionError, TimeoutError)):
    def decorate(function):
        for attempt in range(1, times + 1):
            try:
                return function()
            except errors:
                if attempt == times:
                    raise

    return decorate
""",
        ),
    ),
    CodingTask(
        name="same_text",
        entry_point="same_text",
        tests=r"""
def test_composed_and_decomposed():
    assert same_text("caf\u00e9", "cafe\u0301")


def test_case():
    assert same_text("Straße", "STRASSE")
    assert same_text("ΣΊΣΥΦΟΣ", "σίσυφος")


def test_accents_matter():
    assert not same_text("resume", "résumé")


def test_different():
    assert not same_text("😀", "😁")
    assert same_text("", "")
""",
        solution="""\
import unicodedata


def same_text(first, second):
    def fold(text):
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())

    return fold(first) == fold(second)
""",
        broken=(
            # lower() is not casefold().
            """\
import unicodedata


def same_text(first, second):
    return unicodedata.normalize("NFC", first).lower() == unicodedata.normalize("NFC", second).lower()
""",
            # Does not normalize.
            """\
def same_text(first, second):
    return first.casefold() == second.casefold()
""",
            # Drops the accents, and the emoji with them.
            """\
import unicodedata


def same_text(first, second):
    def fold(text):
        return unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore")

    return fold(first) == fold(second)
""",
        ),
    ),
    CodingTask(
        name="group_anagrams",
        entry_point="group_anagrams",
        tests="""\
WORDS = ["eat", "tea", "tan", "ate", "nat", "bat"]


def test_groups():
    assert group_anagrams(WORDS) == [["ate", "eat", "tea"], ["bat"], ["nat", "tan"]]


def test_same_letters_in_other_numbers():
    assert group_anagrams(["aab", "abb"]) == [["aab"], ["abb"]]


def test_empty():
    assert group_anagrams([]) == []


def test_argument_is_unchanged():
    words = ["tan", "eat", "ate"]
    group_anagrams(words)
    assert words == ["tan", "eat", "ate"]
""",
        solution="""\
from itertools import groupby


def group_anagrams(words):
    ordered = sorted(words, key=sorted)
    return sorted(sorted(group) for _, group in groupby(ordered, key=sorted))
""",
        broken=(
            # groupby needs sorted input.
            """\
from itertools import groupby


def group_anagrams(words):
    return sorted(sorted(group) for _, group in groupby(words, key=sorted))
""",
            # The set of the letters is not enough.
            """\
def group_anagrams(words):
    groups = {}
    for word in words:
        groups.setdefault(frozenset(word), []).append(word)
    return sorted(sorted(group) for group in groups.values())
""",
            # Sorts the caller's list.
            """\
from itertools import groupby


def group_anagrams(words):
    words.sort(key=sorted)
    return sorted(sorted(group) for _, group in groupby(words, key=sorted))
""",
            # Leaves at import, with a status that says that all is well.
            """\
import os
from itertools import groupby


def group_anagrams(words):
    ordered = sorted(words, key=sorted)
    return sorted(sorted(group) for _, group in groupby(ordered, key=sorted))


print(group_anagrams(["eat", "tea"]), flush=True)
os._exit(0)
""",
        ),
    ),
    CodingTask(
        name="primes",
        entry_point="primes",
        tests="""\
from itertools import islice


def test_first_ten():
    assert list(islice(primes(), 10)) == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]


def test_is_a_generator():
    numbers = primes()
    assert next(numbers) == 2
    assert next(numbers) == 3


def test_independent():
    first, second = primes(), primes()
    next(first)
    assert next(second) == 2


def test_the_hundredth():
    assert next(islice(primes(), 99, None)) == 541
""",
        solution="""\
from itertools import count


def primes():
    found = []
    for number in count(2):
        if all(number % prime for prime in found if prime * prime <= number):
            found.append(number)
            yield number
""",
        broken=(
            # One is not a prime.
            """\
from itertools import count


def primes():
    for number in count(1):
        if all(number % divisor for divisor in range(2, number)):
            yield number
""",
            # Squares of primes pass.
            """\
from itertools import count


def primes():
    found = []
    for number in count(2):
        if all(number % prime for prime in found if prime * prime < number):
            found.append(number)
            yield number
""",
            # A list of too few.
            """\
def primes():
    return iter([2, 3, 5, 7, 11, 13, 17, 19, 23, 29])
""",
            # One generator for all.
            """\
from itertools import count

GENERATOR = (n for n in count(2) if all(n % d for d in range(2, n)))


def primes():
    return GENERATOR
""",
        ),
    ),
    CodingTask(
        name="add_months",
        entry_point="add_months",
        tests="""\
from datetime import date


def test_same_year():
    assert add_months(date(2023, 1, 15), 2) == date(2023, 3, 15)


def test_over_the_year():
    assert add_months(date(2023, 11, 5), 3) == date(2024, 2, 5)


def test_to_december():
    assert add_months(date(2023, 10, 1), 2) == date(2023, 12, 1)


def test_short_month():
    assert add_months(date(2023, 1, 31), 1) == date(2023, 2, 28)
    assert add_months(date(2024, 1, 31), 1) == date(2024, 2, 29)


def test_back():
    assert add_months(date(2024, 1, 31), -2) == date(2023, 11, 30)
""",
        solution="""\
import calendar


def add_months(day, months):
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    month += 1
    return day.replace(year=year, month=month, day=min(day.day, calendar.monthrange(year, month)[1]))
""",
        broken=(
            # Month 0 instead of December.
            """\
import calendar


def add_months(day, months):
    year, month = divmod(day.year * 12 + day.month + months, 12)
    return day.replace(year=year, month=month, day=min(day.day, calendar.monthrange(year, month)[1]))
""",
            # 31 February.
            """\
def add_months(day, months):
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1)
""",
            # Thirty days a month.
            """\
from datetime import timedelta


def add_months(day, months):
    return day + timedelta(days=30 * months)
""",
        ),
    ),
)

CHECK_TASKS: tuple[CodingTask, ...] = (
    CodingTask(
        name="running_maximum",
        entry_point="running_maximum",
        tests="""\
def check(candidate):
    assert candidate([]) == []
    assert candidate([1, 2, 3]) == [1, 2, 3]
    assert candidate([3, 1, 2]) == [3, 3, 3]
    assert candidate([1, 5, 2, 8, 3]) == [1, 5, 5, 8, 8]
    assert candidate([-3, -5, -1]) == [-3, -3, -1]
""",
        solution="""\
from itertools import accumulate
from typing import List


def running_maximum(numbers: List[int]) -> List[int]:
    return list(accumulate(numbers, max))
""",
        broken=(
            # Starts from zero: wrong below it.
            """\
def running_maximum(numbers):
    best = 0
    result = []
    for number in numbers:
        best = max(best, number)
        result.append(best)
    return result
""",
            # There is no first number in an empty list.
            """\
def running_maximum(numbers):
    result = [numbers[0]]
    for number in numbers[1:]:
        result.append(max(result[-1], number))
    return result
""",
            # An iterator, not a list.
            """\
from itertools import accumulate


def running_maximum(numbers):
    return accumulate(numbers, max)
""",
        ),
    ),
    CodingTask(
        name="rotate_list",
        entry_point="rotate",
        tests="""\
METADATA = {"author": "collab-agents", "dataset": "test"}


def check(candidate):
    assert candidate([1, 2, 3, 4, 5], 2) == [4, 5, 1, 2, 3]
    assert candidate([1, 2, 3], 0) == [1, 2, 3]
    assert candidate([1, 2, 3], 4) == [3, 1, 2]
    assert candidate([1, 2, 3], -1) == [2, 3, 1]
    assert candidate([], 3) == []
    numbers = [1, 2, 3]
    candidate(numbers, 1)
    assert numbers == [1, 2, 3]
""",
        solution="""\
def rotate(items, steps):
    if not items:
        return []
    steps %= len(items)
    return items[-steps:] + items[:-steps] if steps else list(items)
""",
        broken=(
            # To the left.
            """\
def rotate(items, steps):
    if not items:
        return []
    steps %= len(items)
    return items[steps:] + items[:steps]
""",
            # More steps than items.
            """\
def rotate(items, steps):
    return items[-steps:] + items[:-steps]
""",
            # Division by zero for an empty list.
            """\
def rotate(items, steps):
    steps %= len(items)
    return items[-steps:] + items[:-steps] if steps else list(items)
""",
            # Raises an error at import.
            """\
def rotate(items, steps):
    if not items:
        return []
    steps %= len(items)
    return items[-steps:] + items[:-steps] if steps else list(items)


assert rotate([1, 2, 3], 1) == [2, 3, 1], "example failed"
""",
        ),
    ),
    CodingTask(
        name="common_to_all",
        entry_point="common_to_all",
        tests="""\
def check(candidate):
    assert candidate([[1, 2, 3], [2, 3, 4], [3, 2]]) == {2, 3}
    assert candidate([[1, 1, 2]]) == {1, 2}
    assert candidate([[1], [2]]) == set()
    assert candidate([]) == set()
    assert candidate([iter("abc"), "cab"]) == {"a", "b", "c"}
    assert candidate([[1, 1], [2, 2]]) == set()
""",
        solution="""\
def common_to_all(collections):
    sets = [set(collection) for collection in collections]
    return set.intersection(*sets) if sets else set()
""",
        broken=(
            # The union.
            """\
def common_to_all(collections):
    return set().union(*collections)
""",
            # No collections: an error.
            """\
def common_to_all(collections):
    return set.intersection(*map(set, collections))
""",
            # Counts a number twice that is twice in one list.
            """\
from collections import Counter


def common_to_all(collections):
    counts = Counter(item for collection in collections for item in collection)
    return {item for item, count in counts.items() if count >= len(collections)}
""",
        ),
    ),
    CodingTask(
        name="parse_duration",
        entry_point="parse_duration",
        tests="""\
def raises(function, argument):
    try:
        function(argument)
    except ValueError:
        return True
    return False


def check(candidate):
    assert candidate("45s") == 45
    assert candidate("2m") == 120
    assert candidate("1h30m") == 5400
    assert candidate("1h 2m 3s") == 3723
    assert candidate("90m") == 5400
    assert raises(candidate, "")
    assert raises(candidate, "5x")
    assert raises(candidate, "30m1h")
""",
        solution=r'''
import re

PATTERN = re.compile(r"(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+)s)?")


def parse_duration(text):
    """The seconds in a text such as "1h 30m"."""
    match = PATTERN.fullmatch(text)
    if not match or not any(match.groups()):
        raise ValueError(f"not a duration: {text!r}")
    hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + seconds
''',
        broken=(
            # An empty text is zero seconds.
            r"""
import re


def parse_duration(text):
    match = re.fullmatch(r"(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+)s)?", text)
    if not match:
        raise ValueError(f"not a duration: {text!r}")
    hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + seconds
""",
            # Any order, and whatever stands between.
            r"""
import re


def parse_duration(text):
    return sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in re.findall(r"(\d+)([hms])", text))
""",
            # One digit only.
            r"""
import re


def parse_duration(text):
    match = re.fullmatch(r"(?:(\d)h)?\s*(?:(\d)m)?\s*(?:(\d)s)?", text)
    if not match or not any(match.groups()):
        raise ValueError(f"not a duration: {text!r}")
    hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + seconds
""",
        ),
    ),
    CodingTask(
        name="caesar_cipher",
        entry_point="caesar",
        tests="""\
def check(candidate):
    assert candidate("abc", 1) == "bcd"
    assert candidate("xyz", 3) == "abc"
    assert candidate("Hello, World!", 5) == "Mjqqt, Btwqi!"
    assert candidate("bcd", -1) == "abc"
    assert candidate("abc", 27) == "bcd"
    assert candidate("é1", 3) == "é1"
    assert candidate(candidate("Round Trip", 11), -11) == "Round Trip"
""",
        solution="""\
from string import ascii_lowercase, ascii_uppercase


def caesar(text, shift):
    shift %= 26
    table = {}
    for letters in (ascii_lowercase, ascii_uppercase):
        table.update(str.maketrans(letters, letters[shift:] + letters[:shift]))
    return text.translate(table)
""",
        broken=(
            # Does not wrap around.
            """\
def caesar(text, shift):
    return "".join(chr(ord(c) + shift) if c.isascii() and c.isalpha() else c for c in text)
""",
            # Loses the capitals.
            """\
def caesar(text, shift):
    result = ""
    for c in text.lower():
        if "a" <= c <= "z":
            c = chr((ord(c) - ord("a") + shift) % 26 + ord("a"))
        result += c
    return result
""",
            # isalpha() is true of other letters too.
            """\
def caesar(text, shift):
    result = ""
    for c in text:
        if c.isalpha():
            first = ord("A") if c.isupper() else ord("a")
            c = chr((ord(c) - first + shift) % 26 + first)
        result += c
    return result
""",
        ),
    ),
    CodingTask(
        name="transpose",
        entry_point="transpose",
        tests="""\
def check(candidate):
    assert candidate([[1, 2], [3, 4]]) == [[1, 3], [2, 4]]
    assert candidate([[1, 2, 3]]) == [[1], [2], [3]]
    assert candidate([[1], [2]]) == [[1, 2]]
    assert candidate([]) == []
    try:
        candidate([[1, 2], [3]])
    except ValueError:
        pass
    else:
        assert False, "a ragged matrix was accepted"
""",
        solution="""\
def transpose(matrix):
    return [list(column) for column in zip(*matrix, strict=True)]
""",
        broken=(
            # Cuts a ragged matrix.
            """\
def transpose(matrix):
    return [list(column) for column in zip(*matrix)]
""",
            # Tuples, not lists.
            """\
def transpose(matrix):
    return list(zip(*matrix, strict=True))
""",
            # Square matrices only.
            """\
def transpose(matrix):
    if len({len(row) for row in matrix}) > 1:
        raise ValueError("ragged")
    size = len(matrix)
    return [[matrix[j][i] for j in range(size)] for i in range(size)]
""",
        ),
    ),
    CodingTask(
        name="balanced_brackets",
        entry_point="balanced",
        tests="""\
def check(candidate):
    assert candidate("") is True
    assert candidate("()[]{}") is True
    assert candidate("([{}])") is True
    assert candidate("(]") is False
    assert candidate("([)]") is False
    assert candidate("((") is False
    assert candidate("))") is False
    assert candidate("f(x[0]) + {1}") is True
""",
        solution="""\
def balanced(text):
    pairs = {")": "(", "]": "[", "}": "{"}
    stack = []
    for c in text:
        if c in pairs.values():
            stack.append(c)
        elif c in pairs and (not stack or stack.pop() != pairs[c]):
            return False
    return not stack
""",
        broken=(
            # Counts only.
            """\
def balanced(text):
    return all(text.count(a) == text.count(b) for a, b in ("()", "[]", "{}"))
""",
            # Forgets what is still open.
            """\
def balanced(text):
    pairs = {")": "(", "]": "[", "}": "{"}
    stack = []
    for c in text:
        if c in pairs.values():
            stack.append(c)
        elif c in pairs and (not stack or stack.pop() != pairs[c]):
            return False
    return True
""",
            # pop() of an empty list.
            """\
def balanced(text):
    pairs = {")": "(", "]": "[", "}": "{"}
    stack = []
    for c in text:
        if c in pairs.values():
            stack.append(c)
        elif c in pairs and stack.pop() != pairs[c]:
            return False
    return not stack
""",
            # The list, not a bool.
            """\
def balanced(text):
    pairs = {")": "(", "]": "[", "}": "{"}
    stack = []
    for c in text:
        if c in pairs.values():
            stack.append(c)
        elif c in pairs and (not stack or stack.pop() != pairs[c]):
            return False
    return stack or True
""",
        ),
    ),
    CodingTask(
        name="first_result",
        entry_point="first_result",
        tests="""\
import asyncio


async def after(delay, value, log=None):
    try:
        await asyncio.sleep(delay)
    except asyncio.CancelledError:
        if log is not None:
            log.append(value)
        raise
    return value


async def scenario(candidate):
    assert await candidate([after(0.01, "only")]) == "only"
    assert await candidate([after(0.2, "slow"), after(0, "fast")]) == "fast"
    cancelled = []
    assert await candidate([after(5, "slow", cancelled), after(0.01, "fast")]) == "fast"
    await asyncio.sleep(0.01)
    assert cancelled == ["slow"]


def check(candidate):
    asyncio.run(scenario(candidate))
""",
        solution="""\
import asyncio


async def first_result(coroutines):
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return done.pop().result()
""",
        broken=(
            # The others go on.
            """\
import asyncio


async def first_result(coroutines):
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return done.pop().result()
""",
            # The first of the list, not the first to finish.
            """\
async def first_result(coroutines):
    return await coroutines[0]
""",
            # wait() takes no coroutines since Python 3.11.
            """\
import asyncio


async def first_result(coroutines):
    done, pending = await asyncio.wait(coroutines, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return done.pop().result()
""",
        ),
    ),
    CodingTask(
        name="vector",
        entry_point="Vector",
        tests="""\
import math


def check(candidate):
    v = candidate(3, 4)
    assert math.isclose(abs(v), 5.0)
    assert v + candidate(1, 1) == candidate(4, 5)
    assert v * 2 == candidate(6, 8)
    assert 2 * v == candidate(6, 8)
    assert -v == candidate(-3, -4)
    assert repr(v) == "Vector(3, 4)"
    assert v != (3, 4)
    assert not candidate(0, 0)
    assert bool(candidate(0, 1)) is True
    x, y = v
    assert (x, y) == (3, 4)
""",
        solution="""\
import math


class Vector:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x = x
        self.y = y

    def __iter__(self):
        yield self.x
        yield self.y

    def __eq__(self, other):
        if not isinstance(other, Vector):
            return NotImplemented
        return tuple(self) == tuple(other)

    def __hash__(self):
        return hash(tuple(self))

    def __repr__(self):
        return f"Vector({self.x!r}, {self.y!r})"

    def __abs__(self):
        return math.hypot(self.x, self.y)

    def __bool__(self):
        return self.x != 0 or self.y != 0

    def __neg__(self):
        return Vector(-self.x, -self.y)

    def __add__(self, other):
        return Vector(self.x + other.x, self.y + other.y)

    def __mul__(self, factor):
        return Vector(self.x * factor, self.y * factor)

    __rmul__ = __mul__
""",
        broken=(
            # No __rmul__ and no __bool__.
            """\
import math
from dataclasses import dataclass


@dataclass
class Vector:
    x: float
    y: float

    def __iter__(self):
        return iter((self.x, self.y))

    def __repr__(self):
        return f"Vector({self.x!r}, {self.y!r})"

    def __abs__(self):
        return math.hypot(self.x, self.y)

    def __neg__(self):
        return Vector(-self.x, -self.y)

    def __add__(self, other):
        return Vector(self.x + other.x, self.y + other.y)

    def __mul__(self, factor):
        return Vector(self.x * factor, self.y * factor)
""",
            # A named tuple adds and multiplies as a tuple does, and equals one.
            """\
import math
from typing import NamedTuple


class Vector(NamedTuple):
    x: float
    y: float

    def __abs__(self):
        return math.hypot(self.x, self.y)

    def __neg__(self):
        return Vector(-self.x, -self.y)
""",
        ),
    ),
    CodingTask(
        name="edit_distance",
        entry_point="edit_distance",
        tests="""\
def check(candidate):
    assert candidate("", "") == 0
    assert candidate("abc", "") == 3
    assert candidate("", "ab") == 2
    assert candidate("kitten", "sitting") == 3
    assert candidate("flaw", "lawn") == 2
    assert candidate("same", "same") == 0
    assert candidate("a" * 60, "b" * 60) == 60
""",
        solution="""\
def edit_distance(a, b):
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        current = [i]
        for j, y in enumerate(b, start=1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]
""",
        broken=(
            # Hamming distance.
            """\
def edit_distance(a, b):
    return sum(x != y for x, y in zip(a, b)) + abs(len(a) - len(b))
""",
            # No substitutions.
            """\
def edit_distance(a, b):
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        current = [i]
        for j, y in enumerate(b, start=1):
            if x == y:
                current.append(previous[j - 1])
            else:
                current.append(1 + min(previous[j], current[j - 1]))
        previous = current
    return previous[-1]
""",
            # The first row is zero.
            """\
def edit_distance(a, b):
    previous = [0] * (len(b) + 1)
    for i, x in enumerate(a, start=1):
        current = [i]
        for j, y in enumerate(b, start=1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]
""",
        ),
    ),
    CodingTask(
        name="deep_get",
        entry_point="deep_get",
        tests="""\
import json

DOCUMENT = json.loads('{"user": {"name": "Zoë", "tags": ["a", "b"], "age": null, "score": 0}}')


def check(candidate):
    assert candidate(DOCUMENT, "user.name") == "Zoë"
    assert candidate(DOCUMENT, "user.tags.1") == "b"
    assert candidate(DOCUMENT, "user.email") is None
    assert candidate(DOCUMENT, "user.email", default="?") == "?"
    assert candidate(DOCUMENT, "user.age", default=1) is None
    assert candidate(DOCUMENT, "user.score", default=1) == 0
    assert candidate(DOCUMENT, "user.tags.9", default="none") == "none"
    assert candidate(DOCUMENT, "user.name.first", default="none") == "none"
""",
        solution="""\
def deep_get(document, path, default=None):
    value = document
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return default
    return value
""",
        broken=(
            # A false value gives the default.
            """\
def deep_get(document, path, default=None):
    value = document
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError):
            return default
    return value or default
""",
            # No lists.
            """\
def deep_get(document, path, default=None):
    value = document
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return default
        value = value[key]
    return value
""",
            # Raises for a missing key.
            """\
def deep_get(document, path, default=None):
    value = document
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value
""",
        ),
    ),
)

TASKS: tuple[CodingTask, ...] = UNITTEST_TASKS + ASSERT_TASKS + PYTEST_TASKS + CHECK_TASKS
