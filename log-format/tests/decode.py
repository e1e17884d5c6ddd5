"""Decodes Engram's log files from FORMAT.md alone, with nothing but Python's
standard library, and compares them with the text twins of the golden files.

Usage: decode.py FORMAT.md DIRECTORY   compares every FILE.bin with FILE.json
       decode.py FORMAT.md FILE.bin    prints what is in it
"""
import json, pathlib, re, struct, sys

CRC = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    CRC.append(byte)

def crc32c(data, seed=0):
    crc = seed ^ 0xFFFFFFFF
    for byte in data:
        crc = CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF

IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
MIX = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]

def compress(cv, block, counter, flags):
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    s = list(cv) + IV[:4] + [counter & 0xFFFFFFFF, counter >> 32, len(block), flags]
    def g(a, b, c, d, x, y):
        for word, left, right in ((x, 16, 12), (y, 8, 7)):
            s[a] = s[a] + s[b] + word & 0xFFFFFFFF
            t = s[d] ^ s[a]; s[d] = (t >> left | t << 32 - left) & 0xFFFFFFFF
            s[c] = s[c] + s[d] & 0xFFFFFFFF
            t = s[b] ^ s[c]; s[b] = (t >> right | t << 32 - right) & 0xFFFFFFFF
    for _ in range(7):
        for i in range(4): g(i, 4 + i, 8 + i, 12 + i, m[2 * i], m[2 * i + 1])
        for i in range(4): g(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[8 + 2 * i], m[9 + 2 * i])
        m = [m[i] for i in MIX]
    return [s[i] ^ s[i + 8] for i in range(8)]

def blake3(data, counter=0, root=8):
    if len(data) > 1024:
        left = 1024
        while left * 2 < len(data): left *= 2
        halves = blake3(data[:left], counter, 0) + blake3(data[left:], counter + left // 1024, 0)
        return struct.pack("<8I", *compress(IV, halves, 0, 4 | root))
    cv = IV
    for at in range(0, max(len(data), 1), 64):
        last = at + 64 >= len(data)
        cv = compress(cv, data[at:at + 64], counter, (at == 0) | (2 | root if last else 0))
    return struct.pack("<8I", *cv)

class Refused(Exception): pass
class Bad(Exception): pass

def need(fits, error=Bad):
    if not fits: raise error()

# --- sections 4 to 7: segments -------------------------------------------------

def segment_header(data):
    need(len(data) >= 4096 and data[:8] == b"ENGRSEG1", Refused)
    need(crc32c(data[:4092]) == struct.unpack_from("<I", data, 4092)[0], Refused)
    major, _, length = struct.unpack_from("<HHI", data, 8)
    partition, salt, base = struct.unpack_from("<IIQ", data, 32)
    need(major == 1 and length == 4096 and data[52:56] == b"\1\0\1\1" and data[144:148] == bytes(4), Refused)
    need(not any(data[160:4092]), Refused)
    link = data[72:104]
    need(base or link == blake3(b"log-v1 genesis" + data[16:32] + struct.pack("<I", partition)), Refused)
    return {"salt": salt, "base": base, "time": struct.unpack_from("<Q", data, 64)[0], "link": link}

def frame_header(data, at):
    raw = data[at:at + 80]
    need(len(raw) == 80 and raw[:4] == b"\x45\x56\x4c\x31" and crc32c(raw[:76]) == struct.unpack_from("<I", raw, 76)[0])
    _, version, kind, flags, length, crc, offset, time, salt, synced, hash_, index, number, _ = \
        struct.unpack("<IBBHIIQQII32sHHI", raw)
    need(length <= 1 << 20)
    need(version == 1 and flags < 2 and (1 <= kind <= 4 or kind >= 128), Refused)
    return dict(raw=raw, kind=kind, flags=flags, length=length, crc=crc, offset=offset, time=time, salt=salt,
                synced=synced, hash=hash_, index=index, number=number)

def merkle(leaves):
    if len(leaves) < 2: return blake3(b"\0" + leaves[0]) if leaves else bytes(32)
    left = 1
    while left * 2 < len(leaves): left *= 2
    return blake3(b"\1" + merkle(leaves[:left]) + merkle(leaves[left:]))

def segment(data, schema):
    head = segment_header(data)
    at = good = 4096
    end, link, time, batch, crc, records, sealed = head["base"], head["link"], head["time"], [], 0, [], False
    try:
        while any(data[at:at + 80]):
            frame = frame_header(data, at)
            body = data[at + 80:at + 80 + (frame["length"] + 7) // 8 * 8]
            need(frame["salt"] == head["salt"] and len(body) >= frame["length"])
            need(frame["kind"] == 2 or crc32c(body) == frame["crc"])
            need(frame["kind"] >= 128 or frame["offset"] == end + len(batch))
            at += 80 + len(body)
            if frame["kind"] == 1:
                need(frame["index"] == len(batch) and frame["time"] >= time)
                crc, time = crc32c(frame["raw"], crc), frame["time"]
                batch.append((frame, body[:frame["length"]]))
                continue
            if frame["kind"] == 2:
                need(frame["index"] | frame["number"] << 16 == len(batch) and frame["crc"] == crc and not frame["length"])
                new = link
                for f, _ in batch:
                    new = blake3(b"log-v1 link" + new + struct.pack("<QQH", f["offset"], f["time"], f["number"]) + f["hash"])
                need(new == frame["hash"])
                records += batch
                link, end, batch, crc = new, frame["offset"], [], 0
            elif frame["kind"] == 3:
                root = merkle([f["hash"] for f, _ in records])
                need(not batch and body == struct.pack("<QQQ", head["base"], end, end - head["base"]) + link + root)
                sealed = True
            else:
                need(not batch)
            good = at
            if sealed: break
        torn = not sealed and any(data[good:])
    except Bad:
        torn = True
    verdict = "torn" if torn else "clean"
    if torn:
        for later in range(good, len(data) - 79, 8):
            try: frame = frame_header(data, later)
            except (Bad, Refused): continue
            if frame["salt"] == head["salt"] and frame["synced"] > good: verdict = "corrupt"
    if sealed:
        trailer = b"ENGREND1" + struct.pack("<QIQ", good - 168, head["salt"], 0)
        need(data[good:] == trailer + struct.pack("<I", crc32c(trailer)), Refused)
    return {"verdict": verdict, "position": good, "end": end, "link": link.hex(), "sealed": sealed,
            "records": [record(f, payload, schema) for f, payload in records]}

# --- sections 13 to 15: records ------------------------------------------------

class Reader:
    def __init__(self, data): self.data, self.at = data, 0
    def take(self, count):
        need(self.at + count <= len(self.data))
        self.at += count
        return self.data[self.at - count:self.at]
    def number(self, size): return int.from_bytes(self.take(size), "little")
    def flag(self):
        value = self.number(1)
        need(value < 2)
        return value
    def text(self, size=4): return self.take(self.number(size)).decode()

def record(frame, payload, schema):
    need(payload[:4] == struct.pack("<HH", 1, frame["number"]))
    header_len = int.from_bytes(payload[44:48], "little")
    r = Reader(payload)
    r.take(48)
    key = r.text()
    for _ in range(8):
        if r.flag(): r.text()
    body = Reader(r.take(r.number(4)))
    need(r.at == header_len)
    value(body, schema["kinds"][frame["number"]], schema)
    need(body.at == len(body.data))
    digest = b"log-v1 payload" + blake3(payload[:header_len])
    states = ""
    for _ in range(3):
        state = r.number(1)
        need(state < 3)
        digest += (bytes(32), None, None)[0] if state == 0 else blake3(r.take(r.number(4))) if state == 1 else r.take(32)
        states += "-pe"[state]
    need(r.at == len(payload) and blake3(digest) == frame["hash"] and ("e" in states) == bool(frame["flags"]))
    return {"offset": frame["offset"], "time_us": frame["time"], "kind": frame["number"], "key": key,
            "parts": states, "digest": frame["hash"].hex()}

def parse_schema(text):
    """The tables of sections 14 and 15, as FORMAT.md has them."""
    names = {name: int(number, 16) for number, name in re.findall(r"^\| (0x\w{4}) \| (\w+) ", text, re.M)}
    block = re.sub(r"\n {10,}", " ", text.split("## 15.")[1].split("```")[1])
    types, kinds = {}, {}
    for line in block.strip().splitlines():
        if not line.strip(): continue
        name, rest = line.split(None, 1)
        if re.match(r"\d", rest):  # an enum: the fields of each variant
            types[name] = tuple(re.findall(r"\w+: ([^,}]+)", fields) for fields in re.findall(r"\d+ \w+ ?(\{[^}]*\})?", rest))
        else: types[name] = [t.strip() for t in re.findall(r"\w+: (\[[^\]]*\]\??|[\w]+\??)", rest.split("   ")[0])]
        if name in names: kinds[names[name]] = name
    assert sorted(kinds) == sorted(names.values()), "each kind has a body"
    return {"types": types, "kinds": kinds}

def value(r, kind, schema):
    if kind.endswith("?"):
        if r.flag(): value(r, kind[:-1], schema)
    elif kind.startswith("[u8;"): r.take(int(kind[4:-1]))
    elif kind.startswith("["):
        for _ in range(r.number(8)): value(r, kind[1:-1], schema)
    elif kind == "text": r.text(8)
    elif kind == "bool": r.flag()
    elif kind in ("u16", "u32", "u64", "i32"): r.take(int(kind[1:]) // 8)
    else:
        fields = schema["types"][kind]
        if isinstance(fields, tuple):
            variant = r.number(4)
            need(variant < len(fields))
            fields = fields[variant]
        for field in fields: value(r, field, schema)

# --- sections 3, 8 and 9: the small files --------------------------------------

def root(data):
    slots = []
    for slot in (data[:512], data[512:1024]):
        if slot[:8] == b"ENGRROOT" and crc32c(slot[:508]) == int.from_bytes(slot[508:], "little"):
            version, topic, partitions, sequence = struct.unpack_from("<HHIQ", slot, 8)
            need(version == 1 and slot[64:72] == b"\1\0\1\1\0\0\0\0" and not any(slot[72:508]))
            slots.append({"sequence": sequence, "topic": topic, "partitions": partitions, "log_id": slot[24:40].hex(),
                          "source_log_id": slot[40:56].hex(), "epoch": int.from_bytes(slot[56:64], "little")})
    return max(slots, key=lambda slot: slot["sequence"])

def checkpoints(data):
    out, previous = [], bytes(32)
    for at in range(0, len(data), 192):
        c = data[at:at + 192]
        need(c[:6] == b"ENCP\1\0" and crc32c(c[:188]) == int.from_bytes(c[188:], "little"))
        need(c[80:112] == previous and c[184:188] == bytes(4))
        previous = blake3(c)
        end, position = struct.unpack_from("<QQ", c, 24)
        out.append({"end": end, "position": position, "link": c[40:72].hex(), "key_id": c[112:120].hex()})
    return {"checkpoints": out}

def index(data, salt):
    base, first_us, count, crc = struct.unpack_from("<QQII", data, 8)
    need(data[:8] == b"ENGRIDX1" and crc32c(data[:28], salt) == crc and len(data) == 32 + 16 * count)
    entries = []
    for at in range(32, len(data), 16):
        need(crc32c(data[at:at + 12], salt) == int.from_bytes(data[at + 12:at + 16], "little"))
        entries.append(list(struct.unpack_from("<III", data, at)))
    return {"base": base, "first_us": first_us, "entries": entries}

def decode(path, schema):
    data = path.read_bytes()
    try:
        if data[:8] == b"ENGRROOT": return root(data)
        if data[:4] == b"ENCP": return checkpoints(data)
        if data[:8] == b"ENGRIDX1":
            return index(data, segment_header(path.with_name("sealed.bin").read_bytes())["salt"])
        return segment(data, schema)
    except Refused:
        return {"verdict": "refused"}

def main():
    assert blake3(b"").hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
    assert crc32c(b"123456789") == 0xE3069283
    schema = parse_schema(pathlib.Path(sys.argv[1]).read_text())
    target = pathlib.Path(sys.argv[2])
    if target.is_file():
        return print(json.dumps(decode(target, schema), indent=1))
    files = sorted(target.glob("*.bin"))
    wrong = [p.name for p in files if decode(p, schema) != json.loads(p.with_suffix(".json").read_text())]
    print(f"{len(files)} files, {len(wrong)} differ", *wrong)
    sys.exit(bool(wrong) or len(files) < 10)

main()
