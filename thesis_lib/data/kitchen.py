"""A kitchen drawn with one primitive: what a fixed overhead camera sees of an action, as frames.

Every thing in the picture is a capsule (a line with a round pen), so that pixels do not depend on a drawing library's
version. An action is a motion of a tool on an object: `cut` looks the same whatever is cut, tomatoes look the same
whatever is done to them.
"""

from dataclasses import dataclass, field

import numpy as np

SIZE = 48  # pixels, height and width
FPS = 8
BOARD, BOWL, GLASS, PLATE = (16.0, 29.0), (35.0, 17.0), (37.0, 38.0), (11.0, 9.0)  # x, y
TABLE, WOOD, BOWL_COLOR = (150, 132, 112), (190, 158, 116), (208, 210, 214)
STEEL, HANDLE, WATER = (222, 226, 232), (52, 50, 54), (120, 170, 225)
SKIN = (214, 168, 140)


@dataclass(frozen=True)
class Thing:
    """Something that can be acted on: its colour and, lying on the board, its half length and radius in pixels."""

    color: tuple[int, int, int]
    length: float
    radius: float


THINGS = {
    "tomato": Thing((206, 44, 36), 1.0, 5.5),
    "cheese": Thing((242, 204, 74), 4.5, 3.5),
    "lettuce": Thing((142, 206, 74), 2.5, 6.5),
    "cucumber": Thing((34, 112, 54), 7.5, 3.0),
    "carrot": Thing((238, 122, 26), 7.0, 2.4),
    "onion": Thing((160, 66, 140), 0.5, 5.0),
    "potato": Thing((146, 104, 58), 2.5, 4.5),
    "apple": Thing((238, 96, 120), 0.5, 5.2),
    "mushroom": Thing((228, 214, 196), 1.0, 4.0),
    "bread": Thing((196, 140, 70), 6.0, 4.5),
    "salt": Thing((246, 246, 250), 2.0, 2.4),
    "pepper": Thing((40, 38, 40), 2.0, 2.4),
    "vinegar": Thing((128, 70, 30), 4.5, 2.6),  # the two bottles look alike on purpose
    "oil": Thing((168, 128, 30), 4.5, 2.6),
    "milk": Thing((238, 240, 250), 4.5, 3.2),
    "sugar": Thing((236, 170, 200), 2.5, 2.8),
    "dressing": Thing((204, 168, 92), 1.0, 3.6),
    "water": Thing(WATER, 4.5, 2.8),
}


@dataclass
class Look:
    """What differs between actors and sessions; `nuisance` scales it (0: all kitchens are alike)."""

    light: float = 1.0
    tint: np.ndarray = field(default_factory=lambda: np.zeros(3))
    skin: np.ndarray = field(default_factory=lambda: np.array(SKIN, float))
    shift: np.ndarray = field(default_factory=lambda: np.zeros(2))
    object_tint: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def draw(cls, rng: np.random.Generator, nuisance: float) -> "Look":
        """One kitchen at random."""
        return cls(
            light=1 + 0.16 * nuisance * rng.uniform(-1, 1),
            tint=14 * nuisance * rng.uniform(-1, 1, 3),
            skin=np.array(SKIN, float) * (1 - 0.45 * nuisance * rng.uniform(0, 1)),
            shift=2.0 * nuisance * rng.uniform(-1, 1, 2),
            object_tint={name: 20 * nuisance * rng.uniform(-1, 1, 3) for name in THINGS},
        )


class Canvas:
    """Frames [T, SIZE, SIZE, 3] that capsules are painted on; positions are [2] or [T, 2] in pixels."""

    def __init__(self, background: np.ndarray, length: int):
        self.frames = np.repeat(background[None].astype(np.float32), length, axis=0)

    def capsule(self, start, end, radius: float, color, visible=None) -> None:
        """Paint a line from start to end with a round pen; `visible` [T] bool leaves frames out."""
        start, end = (np.atleast_2d(np.asarray(p, np.float32)) for p in (start, end))  # [1, 2] where nothing moves
        reach = radius + 1
        low = np.floor(np.minimum(start, end).min(0) - reach).clip(0, SIZE).astype(int)
        high = np.ceil(np.maximum(start, end).max(0) + reach + 1).clip(0, SIZE).astype(int)
        if (high <= low).any():
            return
        x = np.arange(low[0], high[0], dtype=np.float32)[None, None, :]
        y = np.arange(low[1], high[1], dtype=np.float32)[None, :, None]
        along = end - start
        squared = np.maximum((along**2).sum(1), 1e-6)[:, None, None]
        dx, dy = x - start[:, 0, None, None], y - start[:, 1, None, None]
        ax, ay = along[:, 0, None, None], along[:, 1, None, None]
        t = ((dx * ax + dy * ay) / squared).clip(0, 1)
        distance = np.sqrt((dx - t * ax) ** 2 + (dy - t * ay) ** 2)
        cover = (radius + 0.5 - distance).clip(0, 1)
        if visible is not None:
            cover = cover * np.asarray(visible, np.float32)[:, None, None]
        region = self.frames[:, low[1] : high[1], low[0] : high[0]]
        region += cover[..., None] * (np.asarray(color, np.float32) - region)


class Kitchen:
    """One session: a look, and what has been left on the board, in the bowl and on the plate."""

    def __init__(self, rng: np.random.Generator, nuisance: float):
        self.rng, self.nuisance = rng, nuisance
        self.look = Look.draw(rng, nuisance)
        self.in_bowl: list[tuple[np.ndarray, tuple]] = []
        self.on_plate: list[tuple[np.ndarray, tuple]] = []
        self.grain = rng.normal(0, 3 + 2 * nuisance, (8, SIZE, SIZE, 3)).astype(np.float32)
        still = Canvas(np.full((SIZE, SIZE, 3), TABLE, np.float32), 1)
        still.capsule(self.at(BOARD) - (9, 0), self.at(BOARD) + (9, 0), 9, WOOD)
        still.capsule(self.at(BOWL), self.at(BOWL), 9, BOWL_COLOR)
        still.capsule(self.at(BOWL), self.at(BOWL), 7.5, (178, 180, 186))
        still.capsule(self.at(PLATE), self.at(PLATE), 6.5, (232, 232, 236))
        still.capsule(self.at(GLASS), self.at(GLASS), 5, (170, 196, 206))
        self.background = still.frames[0]

    def at(self, place) -> np.ndarray:
        """A place in this kitchen, in pixels."""
        return np.asarray(place, float) + self.look.shift

    def color(self, name: str) -> np.ndarray:
        """The colour of a thing in this kitchen."""
        return np.clip(np.asarray(THINGS[name].color, float) + self.look.object_tint.get(name, 0), 0, 255)

    def act(self, verb: str, thing: str, length: int) -> np.ndarray:
        """`length` frames [length, SIZE, SIZE, 3] uint8 of one action; what it leaves behind stays for the next."""
        still = Canvas(self.background, 1)
        for where, color in self.in_bowl + self.on_plate:
            still.capsule(where, where, 1.6, color)
        canvas = Canvas(still.frames[0], length)
        clock = (np.arange(length) + self.rng.uniform(0, FPS)) / FPS  # seconds
        done = np.linspace(0, 1, length)
        pace = 1 + 0.2 * self.nuisance * self.rng.uniform(-1, 1)
        MOTIONS[verb](self, canvas, thing, clock * pace, done)
        return self.develop(canvas)

    def develop(self, canvas: Canvas) -> np.ndarray:
        """Light, tint, sensor grain and 8 bits."""
        frames = canvas.frames
        frames *= self.look.light
        frames += self.look.tint.astype(np.float32)
        frames += self.grain[self.rng.integers(len(self.grain), size=len(frames))]
        return frames.clip(0, 255, out=frames).astype(np.uint8)

    # -- parts that several motions share --

    def hand(self, canvas: Canvas, where: np.ndarray) -> None:
        """A hand at `where` [T, 2], with the arm that reaches in from the lower edge."""
        canvas.capsule(where + (2, 4), where * (0.6, 0) + (14, SIZE + 6), 2.2, self.look.skin * 0.8)
        canvas.capsule(where, where + (1, 2), 2.8, self.look.skin)

    def lie(self, canvas: Canvas, name: str, shrink=0.0) -> None:
        """The thing on the board."""
        thing, centre = THINGS[name], self.at(BOARD)
        half = np.array((thing.length * (1 - shrink), 0))
        canvas.capsule(centre - half, centre + half, thing.radius, self.color(name))

    def pieces(self, canvas: Canvas, name: str, shown, spread=(8.0, 5.0), count=6) -> None:
        """Pieces around the board's centre; `shown` [count, T] bool or a fraction [T] of them."""
        places = self.at(BOARD) + self.rng.uniform(-1, 1, (count, 2)) * spread
        for k, place in enumerate(places):
            canvas.capsule(place, place, 1.8, self.color(name) * 0.92, visible=shown > (k + 0.5) / count)

    def drop(self, name: str, place, spread: float, kept: list, count: int) -> None:
        """Leave pieces at a place for the rest of the session; the oldest are covered by the newest."""
        where = self.at(place) + self.rng.uniform(-1, 1, (count, 2)) * spread
        kept.extend((p, tuple(self.color(name))) for p in where)
        del kept[:-24]


def swing(clock: np.ndarray, hertz: float) -> np.ndarray:
    """A back-and-forth in [-1, 1]."""
    return np.sin(2 * np.pi * hertz * clock)


def path(*columns) -> np.ndarray:
    """Positions [T, 2] from an x and a y, each a number or [T]."""
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float64)


def cut(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """A knife chops up and down and travels along the object; pieces stay beside it."""
    k.lie(canvas, thing)
    k.pieces(canvas, thing, 0.2 + done)
    x, y = k.at(BOARD)
    tip = path(x - 7 + 14 * (clock * 0.18 % 1), y - 4 + 3.5 * swing(clock, 1.7))
    canvas.capsule(tip, tip + (0, 9), 1.2, STEEL)
    canvas.capsule(tip + (0, 9), tip + (1, 13), 1.5, HANDLE)
    k.hand(canvas, tip + (1, 13))


def peel(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """A peeler slides along the object with long strokes; strips lie beside it."""
    k.lie(canvas, thing)
    k.pieces(canvas, thing, done, spread=(9.0, 7.0), count=4)
    x, y = k.at(BOARD)
    head = path(x + 8 * swing(clock, 0.8), y - 1)
    canvas.capsule(head - (0, 2), head + (0, 2), 1.3, HANDLE)
    k.hand(canvas, head + (2, 5))


def place(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """A hand carries pieces from the board to the bowl, again and again."""
    k.pieces(canvas, thing, 1.3 - done, count=7)
    share = (0.5 - 0.5 * np.cos(2 * np.pi * 0.8 * clock))[:, None]
    where = (1 - share) * k.at(BOARD) + share * k.at(BOWL)
    k.hand(canvas, where + (0, 4))
    canvas.capsule(where - (1.5, 0), where + (1.5, 0), 2.6, k.color(thing))
    k.drop(thing, BOWL, 5.0, k.in_bowl, 5)


def pour(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """A bottle tilts over the glass; a stream falls."""
    body, goal = THINGS[thing], k.at(GLASS)
    neck = path(goal[0] - 4 + 1.2 * swing(clock, 0.4), goal[1] - 7 + 0.8 * swing(clock, 0.6))
    canvas.capsule(neck, goal, 0.9, k.color(thing) * 0.9, visible=swing(clock, 0.4) > -0.6)
    canvas.capsule(neck - (2 + body.length, 5), neck - (1, 2), body.radius, k.color(thing))
    canvas.capsule(neck - (1, 2), neck, 1.2, k.color(thing) * 0.8)
    k.hand(canvas, neck + (-6, 1))


def shake(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """A shaker jerks above the glass; grains fall."""
    body, goal = THINGS[thing], k.at(GLASS)
    head = path(goal[0] - 2, goal[1] - 7 + 2.5 * swing(clock, 1.9))
    for dx in (-1.5, 0.0, 1.5):
        grain = path(goal[0] + dx, goal[1] - 4 + 5 * ((clock * 1.9 + dx) % 1))
        canvas.capsule(grain, grain, 0.6, k.color(thing))
    canvas.capsule(head - (0, body.length), head, body.radius, k.color(thing))
    canvas.capsule(head, head, 1.2, STEEL)
    k.hand(canvas, head - (3, 0))


def stir(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """A spoon circles in the glass (a liquid) or, wider, in the bowl (everything else)."""
    small = thing in ("dressing", "milk", "sugar")
    centre, radius, hertz = (k.at(GLASS), 2.2, 1.1) if small else (k.at(BOWL), 5.0, 0.7)
    if small:
        canvas.capsule(centre, centre, 4.0, k.color(thing))
    elif thing in THINGS:
        for angle in np.linspace(0, 2 * np.pi, 5)[:-1]:
            where = centre + 4 * np.array((np.cos(angle), np.sin(angle)))
            canvas.capsule(where, where, 2.0, k.color(thing))
    turn = 2 * np.pi * hertz * clock
    tip = path(centre[0] + radius * np.cos(turn), centre[1] + radius * np.sin(turn))
    handle = tip + ((-2, 7) if small else (-3, 11))
    canvas.capsule(tip, tip, 2.0 if small else 2.6, STEEL)
    canvas.capsule(tip, handle, 0.9, (120, 84, 52))
    k.hand(canvas, handle)


def dress(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """The glass is tilted over the bowl."""
    goal = k.at(BOWL)
    rim = path(goal[0] - 3 + 3 * swing(clock, 0.35), goal[1] - 1 + 1.5 * swing(clock, 0.5))
    canvas.capsule(rim, rim + (1.5, 3), 1.1, k.color(thing), visible=swing(clock, 0.5) > -0.8)
    canvas.capsule(rim - (6, 3), rim - (2, 1), 4.0, (170, 196, 206))
    canvas.capsule(rim - (5, 2), rim - (1, 0), 2.4, k.color(thing))
    k.hand(canvas, rim + (-8, 2))
    k.drop(thing, BOWL, 4.0, k.in_bowl, 2)


def serve(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """A large spoon goes from the bowl to the plate."""
    share = (0.5 - 0.5 * np.cos(2 * np.pi * 0.5 * clock))[:, None]
    where = (1 - share) * k.at(BOWL) + share * k.at(PLATE)
    canvas.capsule(where, where + (3, 9), 1.0, (120, 84, 52))
    canvas.capsule(where, where, 3.2, STEEL)
    load = k.in_bowl[-1][1] if k.in_bowl else k.color("lettuce")
    canvas.capsule(where, where, 2.2, load)
    k.hand(canvas, where + (3, 10))
    for _, color in k.in_bowl[-6:]:
        k.on_plate.append((k.at(PLATE) + k.rng.uniform(-4, 4, 2), color))
    del k.on_plate[:-12]


def wash(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """The object is turned in a hand under running water above the plate."""
    x, y = k.at(PLATE)
    where = path(x + 2 * swing(clock, 1.2), y + 2 + 1.5 * swing(clock + 0.2, 1.2))
    body = THINGS[thing]
    canvas.capsule(where - (body.length * 0.6, 0), where + (body.length * 0.6, 0), body.radius * 0.9, k.color(thing))
    canvas.capsule((x, -4.0), path(x + 0.6 * swing(clock, 2.0), y + 1), 1.2, WATER)
    k.hand(canvas, where + (3, 4))


def grate(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """The object is rubbed up and down a grater on the board."""
    x, y = k.at(BOARD)
    canvas.capsule((x + 4, y - 7), (x + 4, y + 7), 3.5, (168, 172, 180))
    k.pieces(canvas, thing, done, spread=(6.0, 7.0), count=5)
    where = path(x + 4, y + 5.5 * swing(clock, 1.0))
    canvas.capsule(where - (THINGS[thing].length * 0.3, 0), where, THINGS[thing].radius * 0.8, k.color(thing))
    k.hand(canvas, where + (1, 4))


def wait(k: Kitchen, canvas: Canvas, thing: str, clock, done) -> None:
    """Nobody acts; a hand may rest at the edge."""
    if k.rng.random() < 0.5:
        k.hand(canvas, path(8 + 1.0 * swing(clock, 0.2), SIZE - 4))


MOTIONS = {f.__name__: f for f in (cut, peel, place, pour, shake, stir, dress, serve, wash, grate, wait)}
