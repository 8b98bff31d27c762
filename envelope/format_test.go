package envelope

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestFormatNumbers holds every constant of the code against the text of
// FORMAT.md: each pattern must match there, with these numbers in its groups.
func TestFormatNumbers(t *testing.T) {
	b, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	geometry := Geometry{log2: 12}
	for _, c := range []struct {
		name, pattern string
		want          []int64
	}{
		{"chunk sizes", `C = (\d+), (\d+) or (\d+), fixed per vault`, []int64{1 << 12, 1 << 14, 1 << 16}},
		{"group", `\*group\*: (\d+) blocks: one (\d+)-byte index block, then (\d+) chunks`, []int64{ChunksPerGroup + 1, BlockSize, ChunksPerGroup}},
		{"sector", `\*sector\*: (\d+) bytes`, []int64{SectorSize}},
		{"sectors", `positions of (\d+) bytes in (\d+) sectors`, []int64{positionSize, SectorsPerBlock}},
		{"keys", `volume key \((\d+) bytes.*data key \((\d+) bytes`, []int64{KeySize, KeySize}},
		{"inline sizes", `1 <= n <= (\d+), written so s = (\d+) \+ n inline form \(s <= (\d+)\)`, []int64{InlineMax, InlineOverhead, BlockSize}},
		{"groups", `G = (\d+) \+ (\d+)\*C`, []int64{BlockSize, ChunksPerGroup}},
		{"group of a chunk", `of group c/(\d+)\) stands at \(c/(\d+)\)\*G \+ (\d+) \+ \(c mod (\d+)\)`, []int64{ChunksPerGroup, ChunksPerGroup, BlockSize, ChunksPerGroup}},
		{"header", `### Header, (\d+) bytes`, []int64{HeaderSize}},
		{"suite", `suite \((\d+)\)`, []int64{Suite}},
		{"flags", `flags: (\d+) INLINE, (\d+) EXACT, (\d+) CUT, (\d+) XATTR`, []int64{int64(FlagInline), int64(FlagExact), int64(FlagCut), int64(FlagXattr)}},
		{"inline form", `(\d+) nonce (\d+) (\d+) tag (\d+) (\d+) zero (\d+) (\d+) ciphertext n`,
			[]int64{inlineNonce, NonceSize, inlineTag, TagSize, inlineZero, InlineOverhead - inlineZero, InlineOverhead}},
		{"sector tail", `(\d+) 1 unsettled.* (\d+) (\d+) presence bits (\d+) (\d+) seal`,
			[]int64{sectorUnsettled, sectorPresence, PresencePerSector / 8, sectorSeal, TagSize}},
		{"entry", `current entry (\d+) bytes, previous entry (\d+) bytes. entry: nonce (\d+), tag (\d+), u16`, []int64{EntrySize, EntrySize, NonceSize, TagSize}},
		{"slots", `chunk i of the group \(i = 0..(\d+)\)`, []int64{ChunksPerGroup - 1}},
		{"presence", `group p = \(c-1\)/(\d+): k = \(c-1\) mod (\d+), sector k/(\d+), bit k mod (\d+) of the (\d+) bytes`,
			[]int64{PresenceFanout, PresenceFanout, PresencePerSector, PresencePerSector, PresencePerSector / 8}},
		{"names", `name 1..(\d+) bytes.*zeros to a multiple of (\d+)`, []int64{NameMax, namePad}},
		{"direct names", `name <= (\d+) bytes: stored name = b64\(sealed\): (\d+) to (\d+) characters`, []int64{LongNameMin - 1, entryDirectMin, entryDirectMax}},
		{"long names", `stored name = b64\(tag\), (\d+) characters`, []int64{entryLong}},
		{"pieces", `first (\d+) characters`, []int64{longPiece}},
		{"symlinks", `target 1..(\d+) bytes: sealed = salt (\d+) random`, []int64{TargetMax, saltSize}},
		{"directory id", `\.kmsfs\.dir, (\d+) bytes .* (\d+) (\d+) PRF\(directory key, bytes 0..(\d+) \|\| bytes (\d+)\.\.\).* u16 length n \(1..(\d+)\)`,
			[]int64{DirFileSize, dirFileMAC, TagSize, dirFileMAC - 1, DirFileSize, ZoneKeyMax}},
		{"slot sizes", `Slot size Z \((\d+), \d+, \d+, \d+ or (\d+)\)`, []int64{MinSlotSize, MaxSlotSize}},
		{"table header", `created, unix ns (\d+)\.\. zero`, []int64{tableHeaderUsed}},
		{"record", `bytes 0..(\d+) \|\| bytes (\d+)..(\d+)\)\[0:16\] 84 1 number of wrappings \(1..(\d+)\) 85 3 zero (\d+) wrappings`,
			[]int64{recordMACHead - 1, recordMACBody, recordMACEnd - 1, WrappingsMax, recordHead}},
		{"wrapping", `kind \((\d+): by the keysource\) u8 context version \((\d+)\).*key material id (\d+) bytes.*ARN \(1..(\d+)\), blob \(1..(\d+)\)`,
			[]int64{KindKeysource, ContextVersion, materialSize, KeyARNMax, BlobMax}},
		{"journal", `header of (\d+) bytes, then records, each at a multiple of (\d+):.*L, its length without padding, at most (\d+) .* (\d+) body`,
			[]int64{JournalHeaderSize, SectorSize, JournalRecordMax, journalHeadSize}},
		{"journal kinds", `kind (\d+) chunk.*kind (\d+) first block.*kind (\d+) place.*kind (\d+) forget`,
			[]int64{int64(JournalChunk), int64(JournalBlock), int64(JournalPlace), int64(JournalForget)}},
		{"config", `format \((\d+)\)`, []int64{1}},
		{"limit: file", `plaintext of a file (\d+)`, []int64{MaxPlain}},
		{"limit: inline", `plaintext in inline form (\d+)`, []int64{InlineMax}},
		{"limit: name", `name (\d+) plaintext; the backing`, []int64{NameMax}},
		{"limit: target", `symlink target (\d+) plaintext, (\d+) stored`, []int64{TargetMax, targetB64Max}},
		{"limit: record", `wrappings of a key (\d+); the record, with its fixed part, at most (\d+)`, []int64{WrappingsMax, MaxSlotSize - TagSize}},
		{"limit: ARN and blob", `CMK ARN (\d+) wrapped key (\d+)`, []int64{KeyARNMax, BlobMax}},
		{"limit: config", `vault.json (\d+); keysource and key 1..(\d+) each`, []int64{ConfigMax, ConfigStringMax}},
		{"group sizes agree", `G = (\d+) \+ 63`, []int64{geometry.GroupSealed() - geometry.GroupPlain()}},
	} {
		m := regexp.MustCompile(c.pattern).FindStringSubmatch(text)
		if m == nil {
			t.Errorf("%s: FORMAT.md has nothing like %q", c.name, c.pattern)
			continue
		}
		if len(m)-1 != len(c.want) {
			t.Fatalf("%s: %d groups, %d numbers", c.name, len(m)-1, len(c.want))
		}
		for i, want := range c.want {
			if got, err := strconv.ParseInt(m[i+1], 10, 64); err != nil || got != want {
				t.Errorf("%s: number %d is %s in FORMAT.md, %d in the code", c.name, i+1, m[i+1], want)
			}
		}
	}
	for _, s := range []string{headerMagic, dirMagic, tableMagic, recordMagic, ControlDir, DirFileName, CompanionPrefix, XattrPrefix,
		ctxConfigMAC, ctxDirectoryMAC, ctxNameTag, ctxNameStream, ctxSymlinkTag, ctxSymlinkStream, ctxXattrName, ctxXattrTag,
		ctxXattrStream, ctxJournalMAC, journalMagic, ctxRootDirectory, ctxVolumeCommitment, ctxGroupKey, ctxIndexSeal, ctxRecordMAC, ctxDataCommitment,
		ctxReverseID, ctxReverseNonce} {
		if !strings.Contains(text, s) {
			t.Errorf("FORMAT.md lacks %q", s)
		}
	}
}
