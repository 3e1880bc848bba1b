// What differs between two texts, word by word.

const MOST_CELLS = 9e6; // of the table of common words: some 3000 words against 3000

/** The words of two texts with whether both have them, `[[text, isCommon], …]` for each; null where they are too long. */
function compared(left, right) {
  const a = left.match(/\S+\s*|\s+/g) ?? [];
  const b = right.match(/\S+\s*|\s+/g) ?? [];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const pairs = commonWords(a.slice(start, a.length - end), b.slice(start, b.length - end));
  if (!pairs) return null;
  const isCommon = (place, length, inside) => place < start || place >= length - end || inside.has(place - start);
  const [inA, inB] = [new Set(pairs.map(([i]) => i)), new Set(pairs.map(([, j]) => j))];
  return [
    joined(a, (place) => isCommon(place, a.length, inA)),
    joined(b, (place) => isCommon(place, b.length, inB)),
  ];
}

/** Places of a longest common subsequence. */
function commonWords(a, b) {
  const width = b.length + 1;
  if ((a.length + 1) * width > MOST_CELLS) return null;
  const longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      longest[i * width + j] =
        a[i] === b[j]
          ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  const pairs = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) pairs.push([i++, j++]);
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
  return pairs;
}

/** Neighbours of a sort put together. */
function joined(tokens, isCommon) {
  const pieces = [];
  tokens.forEach((token, place) => {
    const common = isCommon(place);
    if (pieces.at(-1)?.[1] === common) pieces.at(-1)[0] += token;
    else pieces.push([token, common]);
  });
  return pieces;
}
