package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/bug"
)

// reencrypt gives a file a new data key; what it holds stays, and so does its time.
func (e *engine) reencrypt(b []byte) error {
	name, v := fileNames[int(b[5])%len(fileNames)], e.vaults[int(b[3]/4)%len(e.vaults)]
	e.note("reencrypt %s", name)
	if !e.files[name].exists {
		return nil
	}
	n, _, err := v.Lookup(v.Root(), name)
	if err != nil {
		return err
	}
	defer v.Forget(n, 1)
	before, err := v.Attr(n)
	if err != nil {
		return err
	}
	if err := v.Reencrypt(ctx, []*vault.Node{n}, vault.ReencryptOptions{})[0].Err; err != nil {
		return err
	}
	after, err := v.Attr(n)
	if err == nil && !e.lax && (after.Mtim != before.Mtim || after.Size != before.Size || after.Mode != before.Mode || after.Atim != before.Atim) {
		err = errors.New("reencryption has changed the size, the mode or the times")
	}
	return err
}

// stored are the bytes of all stored files of a vault, by their stored name.
func stored(t *testing.T, root backing.Dir) map[string][]byte {
	t.Helper()
	got := map[string][]byte{}
	root.ReadDir(func(e backing.Entry) bool {
		if e.Kind == syscall.S_IFREG && !envelope.IsReserved(e.Name) {
			got[e.Name] = nil
		}
		return true
	})
	for name := range got {
		f, st, err := root.OpenStat(name, syscall.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, st.Size)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		got[name] = b
	}
	return got
}

// dataKeys are the keys that the keysource has made for file id, in no order.
func (k *memoryKeys) dataKey(t *testing.T, r *envelope.Record, geo envelope.Geometry) *envelope.FileKey {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	fk, err := envelope.NewFileKey(k.keys[string(r.Wrappings[0].Blob)].plain, r.ID, geo)
	if err != nil {
		t.Fatal(err)
	}
	return fk
}

// opensUnder counts what of a stored file opens under a key: sectors of index blocks, chunks, inline blocks.
func opensUnder(t *testing.T, b []byte, fk *envelope.FileKey, geo envelope.Geometry) (n int) {
	t.Helper()
	s := &envelope.Scratch{}
	gk, err := fk.Group(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := envelope.OpenInline(gk, b, make([]byte, envelope.InlineMax), s); err == nil {
		n++
	}
	for g := uint64(0); geo.IndexOffset(g)+envelope.BlockSize <= int64(len(b)); g++ {
		if gk, err = fk.Group(g); err != nil {
			t.Fatal(err)
		}
		var blk envelope.IndexBlock
		copy(blk[:], b[geo.IndexOffset(g):])
		for sector := range envelope.SectorsPerBlock {
			if blk.VerifySector(fk, g, sector) == nil {
				n++
			}
		}
		for i := range envelope.ChunksPerGroup {
			chunk := g*envelope.ChunksPerGroup + uint64(i)
			at := geo.ChunkOffset(chunk)
			if at >= int64(len(b)) {
				break
			}
			cur, prev := blk.Slot(i)
			for _, e := range []envelope.Entry{cur, prev} {
				if !e.IsZero() && at+int64(e.Length) <= int64(len(b)) {
					raw := append(append([]byte(nil), b[at:at+int64(e.Length)]...), make([]byte, envelope.TagSize)...)
					if gk.OpenChunk(make([]byte, e.Length), raw[:e.Length], e, chunk, s) == nil {
						n++
					}
				}
			}
		}
	}
	return n
}

// TestReencryptAll finds nothing on the disk that opens under an old key, the old records erased, and all else as it was.
func TestReencryptAll(t *testing.T) {
	for _, sharing := range []vault.Sharing{vault.Exclusive, vault.Shared} {
		ks := &memoryKeys{}
		fs := memfs.New(memfs.Config{})
		makeVault(t, fs.Root, ks, 4096)
		geo, _ := envelope.NewGeometry(4096)
		v := openVault(t, fs.Root, ks, vault.Options{Sharing: sharing})
		want := map[string][]byte{}
		holes := map[string]int64{}
		group := int64(63 * 4096)
		for name, size := range map[string]int64{"empty": 0, "inline": 700, "one": 5000, "groups": 3*group + 99, "sparse": 4 * group, "attr": 0} {
			if err := put(name, pattern(byte(size), size)).do(v); err != nil {
				t.Fatal(err)
			}
			want[name] = pattern(byte(size), size)
		}
		n, err := find(v, "sparse")
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Allocate(ctx, n, 3, group+4096, 2*group, vault.KeepPrivileges); err != nil {
			t.Fatal(err)
		}
		clear(want["sparse"][group+4096:][:2*group])
		a, err := find(v, "attr")
		if err == nil {
			err = v.Setxattr(ctx, a, "user.test", []byte("value"), 0)
		}
		if err == nil {
			_, err = v.Link(n, v.Root(), "link")
		}
		if err == nil {
			err = v.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		names := []string{"empty", "inline", "one", "groups", "sparse", "link", "attr"}
		old := map[envelope.FileID]*envelope.Record{}
		var nodes []*vault.Node
		for _, name := range names {
			n, err := find(v, name)
			if err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, n)
			r, err := v.KeyInfo(n)
			if err != nil {
				t.Fatal(err)
			}
			if r != nil {
				old[r.ID] = r
			}
			if name == "sparse" {
				holes[name], _ = v.Seek(ctx, n, 0, vault.SeekHole)
			}
		}
		for i, r := range v.Reencrypt(ctx, nodes, vault.ReencryptOptions{}) {
			if r.Err != nil || r.Done == (names[i] == "empty" || names[i] == "link") {
				t.Fatalf("%s: done %v, %v", names[i], r.Done, r.Err)
			}
		}
		check := func() {
			t.Helper()
			for i, n := range nodes {
				p := make([]byte, 5*group)
				k, err := v.Read(ctx, n, p, 0)
				name := names[i]
				if name == "link" {
					name = "sparse"
				}
				if err != nil || string(p[:k]) != string(want[name]) {
					t.Fatalf("%s: %d bytes, %v", names[i], k, err)
				}
			}
			if at, err := v.Seek(ctx, nodes[4], 0, vault.SeekHole); at != holes["sparse"] || at != group+4096 {
				t.Fatalf("the hole is at %d, was at %d: %v", at, holes["sparse"], err)
			}
			if x, err := v.Getxattr(ctx, nodes[6], "user.test"); string(x) != "value" {
				t.Fatalf("attribute %q: %v", x, err)
			}
		}
		check()
		if err := v.Flush(); err != nil {
			t.Fatal(err)
		}
		for i, n := range nodes {
			r, err := v.KeyInfo(n)
			if err != nil {
				t.Fatal(err)
			}
			if r == nil {
				continue
			}
			if _, ok := r.Previous(); ok || r.Commitment == old[r.ID].Commitment {
				t.Errorf("%s: not a new key alone", names[i])
			}
		}
		v.Close()
		seen := 0
		for _, b := range stored(t, fs.Root()) {
			h, err := envelope.ParseHeader(b)
			if err != nil {
				continue
			}
			seen++
			if n := opensUnder(t, b, ks.dataKey(t, old[h.ID], geo), geo); n > 0 {
				t.Errorf("%d pieces of %d bytes open under the old key", n, len(b))
			}
		}
		if seen < 5 {
			t.Errorf("%d files looked at", seen)
		}
		ctl, _ := fs.Root().OpenDir(".kmsfs")
		keys, _ := ctl.OpenDir("keys")
		for name, b := range stored(t, keys) {
			h, err := envelope.ParseTableHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			for at := int(h.SlotSize); at+int(h.SlotSize) <= len(b); at += int(h.SlotSize) {
				r, err := envelope.ParseRecord(b[at : at+int(h.SlotSize)])
				if err == nil && old[r.ID] != nil && r.Commitment == old[r.ID].Commitment {
					t.Errorf("key table %s has the old record of %v", name, r.ID)
				}
			}
		}
		v = openVault(t, fs.Root, ks, vault.Options{Sharing: sharing})
		nodes = nil
		for _, name := range names {
			n, err := find(v, name)
			if err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, n)
		}
		check()
		v.Close()
	}
}

// TestReencryptResume cuts a reencryption at every moment, by a kill and by a power cut that loses any part of what was not
// synced, and once more while it is resumed: the files read as before all the time, and when it is done at last nothing of
// them opens under an old key.
func TestReencryptResume(t *testing.T) {
	stride := effort[int64](t, 29, 13, 1)
	for _, sharing := range []vault.Sharing{vault.Exclusive, vault.Shared} {
		for _, state := range []string{"settled", "written over", "cut", "unsettled"} {
			t.Run(fmt.Sprintf("%d/%s", sharing, state), func(t *testing.T) {
				t.Parallel()
				for at := int64(0); ; at += stride {
					if !cutReencryption(t, sharing, state, at) {
						if at < 20 {
							t.Fatalf("only %d moments", at)
						}
						break
					}
				}
			})
		}
	}
}

// cutReencryption cuts at one moment; false: it was done by then.
func cutReencryption(t *testing.T, sharing vault.Sharing, state string, at int64) bool {
	k := &killer{at: -1, pages: true}
	fs := memfs.New(memfs.Config{Hook: k.hook})
	ks := &memoryKeys{}
	makeVault(t, fs.Root, ks, 4096)
	geo, _ := envelope.NewGeometry(4096)
	o := vault.Options{Sharing: sharing, JournalFor: 1 << 50}
	v := openVault(t, fs.Root, ks, o)
	const group = 63 * 4096
	want := map[string][]byte{"groups": pattern(1, 2*group+5000), "inline": pattern(2, 900)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s at %d: %v", state, at, err)
		}
	}
	nodes := func(v *vault.Vault) (nn []*vault.Node) {
		for _, name := range []string{"groups", "inline"} {
			n, err := find(v, name)
			must(err)
			nn = append(nn, n)
		}
		return nn
	}
	for name, p := range want {
		must(put(name, p).do(v))
	}
	nn := nodes(v)
	if state != "unsettled" {
		must(v.Flush())
	}
	switch state {
	case "written over":
		_, err := v.Write(ctx, nn[0], pattern(3, 9000), 4000, vault.KeepPrivileges)
		must(err)
		copy(want["groups"][4000:], pattern(3, 9000))
		_, err = v.Write(ctx, nn[1], pattern(4, 50), 10, vault.KeepPrivileges)
		must(err)
		copy(want["inline"][10:], pattern(4, 50))
	case "cut":
		must(v.Truncate(ctx, nn[0], group+777, vault.KeepPrivileges))
		want["groups"] = want["groups"][:group+777]
	}
	must(v.Fsync(v.Root(), vault.SyncAll))
	old := map[envelope.FileID]*envelope.FileKey{}
	for _, n := range nn {
		must(v.Fsync(n, vault.SyncAll))
		r, err := v.KeyInfo(n)
		must(err)
		old[r.ID] = ks.dataKey(t, r, geo)
	}
	k.arm(at)
	for _, r := range v.Reencrypt(ctx, nn, vault.ReencryptOptions{}) {
		if r.Err != nil && !k.reached() {
			must(r.Err)
		}
	}
	if k.reached() {
		for round := range 6 { // 0, 4, 5: a kill, and after the last two the power goes, with what the kill has left in memory
			after := fs.Kill()
			if round > 0 && round < 4 {
				after = fs.Crash(memfs.Policy{Sectors: round%2 == 0 && sharing == vault.Exclusive, Choose: memfs.Random(uint64(at)<<8 | uint64(round))})
			}
			again := &killer{at: -1, pages: true}
			cut := after.WithHook(again.hook)
			reads := func(v *vault.Vault, when string) {
				t.Helper()
				for name, p := range want {
					if m, err := readAll(v, name); err != nil || !bytes.Equal(m.data, p) {
						t.Fatalf("%s at %d, round %d, %s: %s: %v", state, at, round, when, name, err)
					}
				}
			}
			v := openVault(t, cut.Root, ks, o)
			reads(v, "found")
			again.arm(at/2 + int64(round))
			if round >= 4 {
				again.arm(14 + at%5*int64(round))
			}
			v.Reencrypt(ctx, nodes(v), vault.ReencryptOptions{})
			after = cut.Kill()
			if again.reached() && (round%2 == 1 || round == 4) {
				after = cut.Crash(memfs.Policy{Sectors: round == 3 && sharing == vault.Exclusive, Choose: memfs.Random(uint64(at)<<8 | uint64(round) + 100)})
			}
			v.Close()
			v = openVault(t, after.Root, ks, o)
			reads(v, "resumed")
			nn := nodes(v)
			for _, r := range v.Reencrypt(ctx, nn, vault.ReencryptOptions{}) {
				must(r.Err)
			}
			reads(v, "done")
			must(v.Flush())
			must(v.Close())
			v = openVault(t, after.Root, ks, o)
			reads(v, "opened")
			for _, n := range nodes(v) {
				r, err := v.KeyInfo(n)
				must(err)
				if _, ok := r.Previous(); ok {
					t.Fatalf("%s at %d, round %d: a record has its previous key", state, at, round)
				}
			}
			must(v.Close())
			for _, b := range stored(t, after.Root()) {
				h, err := envelope.ParseHeader(b)
				must(err)
				if n := opensUnder(t, b, old[h.ID], geo); n > 0 {
					t.Fatalf("%s at %d, round %d: %d pieces open under the old key", state, at, round, n)
				}
			}
		}
	}
	v.Close()
	return k.reached()
}

// TestReencryptBeside has readers, writers, truncations and syncs go on while files are reencrypted again and again, by two
// at once: every page is one that was written to its place, and what its only writer has written last is there in the end.
func TestReencryptBeside(t *testing.T) {
	for _, sharing := range []vault.Sharing{vault.Exclusive, vault.Shared} {
		ks := &memoryKeys{}
		fs := memfs.New(memfs.Config{})
		makeVault(t, fs.Root, ks, 4096)
		v := openVault(t, fs.Root, ks, vault.Options{Sharing: sharing, KeepEvery: 5 * time.Millisecond, JournalFor: 20 * time.Millisecond})
		const pages = 150
		page := func(i, round int) []byte { return bytes.Repeat([]byte{byte(i), byte(round), byte(i ^ round), 1}, 1024) }
		if err := put("f", nil).do(v); err != nil {
			t.Fatal(err)
		}
		n, err := find(v, "f")
		if err != nil {
			t.Fatal(err)
		}
		for i := range pages {
			if _, err := v.Write(ctx, n, page(i, 0), int64(i)*4096, vault.KeepPrivileges); err != nil {
				t.Fatal(err)
			}
		}
		if err := put("gone", pattern(1, 600_000)).do(v); err != nil {
			t.Fatal(err)
		}
		var last [pages]int
		var wg sync.WaitGroup
		stop := make(chan struct{})
		loop := func(f func(round int) error) {
			wg.Go(func() {
				for round := 1; ; round++ {
					select {
					case <-stop:
						return
					default:
					}
					if err := f(round); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for w := range 2 {
			loop(func(round int) error {
				i := (round*7 + w*pages/2) % (pages / 2)
				i += w * pages / 2
				if _, err := v.Write(ctx, n, page(i, round%256), int64(i)*4096, vault.KeepPrivileges); err != nil {
					return err
				}
				last[i] = round % 256
				if round%16 == 0 {
					return v.Fsync(n, vault.SyncData)
				}
				return nil
			})
			loop(func(round int) error {
				p := make([]byte, 4096)
				i := (round * 13) % pages
				if _, err := v.Read(ctx, n, p, int64(i)*4096); err != nil {
					return err
				}
				if !bytes.Equal(p, page(i, int(p[1]))) {
					return fmt.Errorf("page %d reads as none that was written", i)
				}
				return nil
			})
		}
		loop(func(round int) error { // past the end
			if err := v.Truncate(ctx, n, pages*4096+int64(round%3)*300_000, vault.KeepPrivileges); err != nil {
				return err
			}
			return v.Allocate(ctx, n, 3, pages*4096, 300_000, vault.KeepPrivileges)
		})
		var rounds atomic.Int64
		for range 2 {
			loop(func(int) error {
				for _, r := range v.Reencrypt(ctx, []*vault.Node{n}, vault.ReencryptOptions{}) {
					if r.Err != nil {
						return r.Err
					}
					if r.Done {
						rounds.Add(1)
					}
				}
				return nil
			})
		}
		g, err := find(v, "gone")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := v.Reencrypt(ctx, []*vault.Node{g}, vault.ReencryptOptions{})[0].Err; err != nil && !errors.Is(err, vault.ErrStale) { // or before
				t.Errorf("deleted meanwhile: %v", err)
			}
		})
		if err := v.Unlink(v.Root(), "gone"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(effort[time.Duration](t, 1500, 1500, 20000) * time.Millisecond)
		close(stop)
		wg.Wait()
		v.Forget(g, 1)
		if rounds.Load() < 3 {
			t.Errorf("reencrypted %d times only", rounds.Load())
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		v = openVault(t, fs.Root, ks, vault.Options{Sharing: sharing})
		m, err := readAll(v, "f")
		if err != nil {
			t.Fatal(err)
		}
		for i := range pages {
			if !bytes.Equal(m.data[i*4096:(i+1)*4096], page(i, last[i])) {
				t.Errorf("page %d is not what was written last", i)
			}
		}
		v.Close()
		ctl, _ := fs.Root().OpenDir(".kmsfs")
		keys, _ := ctl.OpenDir("keys")
		records := 0
		for _, b := range stored(t, keys) {
			h, err := envelope.ParseTableHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			for at := int(h.SlotSize); at+int(h.SlotSize) <= len(b); at += int(h.SlotSize) {
				if _, err := envelope.ParseRecord(b[at : at+int(h.SlotSize)]); err == nil {
					records++
				}
			}
		}
		if records != 1 {
			t.Errorf("%d records are left, of one file", records)
		}
	}
}

// TestReencryptHeaderInMemory kills a reencryption between the write of the header and its sync. The next process works on
// the file under the key that the header in memory names, and the power goes: what it has sealed must not outlive the header.
func TestReencryptHeaderInMemory(t *testing.T) {
	var armed, turned atomic.Bool
	var heads atomic.Int32 // writes of a first sector: that of a key table comes before
	fs := memfs.New(memfs.Config{Hook: func(op faults.Op) error {
		if turned.Load() { // also the sync
			return memfs.ErrCrashed
		}
		if armed.Load() && op.Call == faults.WriteAt && op.Off == 0 && op.Len == envelope.SectorSize && heads.Add(1) == 2 {
			turned.Store(true)
		}
		return nil
	}})
	ks := &memoryKeys{}
	makeVault(t, fs.Root, ks, 4096)
	v := openVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	want := pattern(1, 80*4096)
	if err := errors.Join(put("f", want).do(v), v.Flush(), v.Fsync(v.Root(), vault.SyncAll)); err != nil {
		t.Fatal(err)
	}
	n, err := find(v, "f")
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	if r := v.Reencrypt(ctx, []*vault.Node{n}, vault.ReencryptOptions{}); r[0].Err == nil || !turned.Load() {
		t.Fatalf("it was not killed: %v", r[0].Err)
	}
	killed := fs.Kill()
	v.Close()
	for at := range int64(40) {
		for seed := range uint64(6) {
			k := &killer{at: -1, pages: true}
			cut := killed.WithHook(k.hook)
			v := openVault(t, cut.Root, ks, vault.Options{JournalFor: 1 << 50})
			n, err := find(v, "f")
			if err != nil {
				t.Fatal(err)
			}
			k.arm(at)
			v.Write(ctx, n, pattern(2, 4096), 70*4096, vault.KeepPrivileges)
			v.Flush()
			after := cut.Crash(memfs.Policy{Sectors: true, Choose: memfs.Random(uint64(at)<<8 | seed)})
			v.Close()
			v = openVault(t, after.Root, ks, vault.Options{})
			m, err := readAll(v, "f")
			if err != nil {
				t.Fatalf("at %d, seed %d: %v", at, seed, err)
			}
			now := slices.Clone(want)
			copy(now[70*4096:], pattern(2, 4096))
			if !bytes.Equal(m.data, want) && !bytes.Equal(m.data, now) {
				t.Fatalf("at %d, seed %d: neither old nor new", at, seed)
			}
			v.Close()
		}
	}
}

// TestReencryptFuture: a key that was made by a clock that was ahead is not silently taken for a new one.
func TestReencryptFuture(t *testing.T) {
	ks := testStore(t)
	at, _ := inMemory()
	makeVault(t, at, ks, 0)
	v := openVault(t, at, ks, vault.Options{Now: func() time.Time { return time.Now().Add(2 * time.Hour) }})
	createFiles(t, v, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v = openVault(t, at, ks, vault.Options{})
	defer v.Close()
	n := walkTo(t, v, "f0000")
	r := v.Reencrypt(ctx, []*vault.Node{n}, vault.ReencryptOptions{Before: time.Now()})
	if r[0].Done || !errors.Is(r[0].Err, vault.ErrUnfinished) {
		t.Errorf("%+v", r[0])
	}
	r = v.Reencrypt(ctx, []*vault.Node{n}, vault.ReencryptOptions{})
	if !r[0].Done || r[0].Err != nil {
		t.Errorf("whatever its age: %+v", r[0])
	}
}

// TestReencryptPanics: a keysource that panics while the new key of a file is made, in a goroutine of its own, fails that file alone.
func TestReencryptPanics(t *testing.T) {
	at, _ := inMemory()
	ks := &memoryKeys{}
	makeVault(t, at, ks, 4096)
	v := openVault(t, at, ks, vault.Options{})
	defer v.Close()
	doAll(t, v, put("a", pattern(1, 9000)), put("b", pattern(2, 9000)), flush())
	var nodes []*vault.Node
	for _, name := range []string{"a", "b"} {
		n, err := find(v, name)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	var panicked atomic.Bool
	ks.mu.Lock()
	ks.fail = func(int) error {
		if bytes.Contains(debug.Stack(), []byte(".makeKey(")) && !panicked.Swap(true) {
			panic("in the keysource")
		}
		return nil
	}
	ks.mu.Unlock()
	failed := 0
	for i, r := range v.Reencrypt(ctx, nodes, vault.ReencryptOptions{}) {
		if errors.Is(r.Err, bug.Err) {
			failed++
		} else if r.Err != nil || !r.Done {
			t.Errorf("file %d: %+v", i, r)
		}
	}
	if failed != 1 || v.Stats().Panics != 1 {
		t.Errorf("%d files have failed, %d panics are counted", failed, v.Stats().Panics)
	}
	for i, r := range v.Reencrypt(ctx, nodes, vault.ReencryptOptions{}) {
		if r.Err != nil || !r.Done {
			t.Errorf("file %d, again: %+v", i, r)
		}
	}
	for i, name := range []string{"a", "b"} {
		if m, err := readAll(v, name); err != nil || !bytes.Equal(m.data, pattern(byte(i+1), 9000)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
