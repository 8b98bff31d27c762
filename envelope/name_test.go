package envelope

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

func testVolume(t testing.TB) *VolumeKeys {
	t.Helper()
	vk, err := NewVolumeKeys(pattern(9, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return vk
}

// openSealed opens a sealed name the way a directory listing does.
func openSealed(vk *VolumeKeys, dir DirID, s SealedName) (string, error) {
	long := ""
	for i, c := range s.Companions {
		tag, part, piece, ok := ParseCompanion(c)
		if !ok || tag != s.Entry || part != i {
			return "", errors.New("companion " + c)
		}
		long += piece
	}
	return vk.OpenName(dir, s.Entry, long)
}

func TestNamesRoundTrip(t *testing.T) {
	vk, dir := testVolume(t), DirID{1}
	entries := map[string]bool{}
	for n := 1; n <= NameMax; n++ {
		b := make([]byte, n)
		for i := range b {
			for b[i] == 0 || b[i] == '/' {
				b[i] = byte(rand.IntN(256))
			}
		}
		b[0] = 'x' // not "." nor ".."
		s, err := vk.SealName(dir, string(b))
		if err != nil {
			t.Fatal(err)
		}
		got, err := openSealed(vk, dir, s)
		if err != nil || got != string(b) {
			t.Fatalf("%d bytes: got %q, %v", n, got, err)
		}
		if (len(s.Companions) == 2) != (n >= LongNameMin) || IsLongEntry(s.Entry) != (n >= LongNameMin) || len(s.Companions)%2 != 0 {
			t.Fatalf("%d bytes: %d companions", n, len(s.Companions))
		}
		for _, name := range append([]string{s.Entry}, s.Companions...) {
			if len(name) > 255 || entries[name] || strings.HasPrefix(s.Entry, ".") {
				t.Fatalf("%d bytes: stored as %q", n, name)
			}
			entries[name] = true
		}
		for _, c := range s.Companions {
			if !IsReserved(c) {
				t.Errorf("%q is not reserved", c)
			}
		}
		if again, _ := vk.SealName(dir, string(b)); again.Entry != s.Entry {
			t.Fatal("not deterministic")
		}
		if _, err := openSealed(vk, DirID{2}, s); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("opens in another directory: %v", err)
		}
	}
}

func TestNamesRefused(t *testing.T) {
	vk := testVolume(t)
	for _, c := range []struct {
		name string
		want error
	}{
		{"", ErrInvalidName}, {".", ErrInvalidName}, {"..", ErrInvalidName}, {"a/b", ErrInvalidName}, {"a\x00", ErrInvalidName},
		{"\x00", ErrInvalidName}, {"/", ErrInvalidName}, {strings.Repeat("a", 256), ErrNameTooLong}, {strings.Repeat("/", 300), ErrNameTooLong},
	} {
		if s, err := vk.SealName(DirID{}, c.name); !errors.Is(err, c.want) || s.Entry != "" {
			t.Errorf("%.10q: got %v, %v, want %v", c.name, s, err, c.want)
		}
	}
	for _, name := range []string{"...", ".a", ".kmsfs", ".kmsfs.dir", " ", "\n", "\xff\xfe", "-"} {
		s, err := vk.SealName(DirID{}, name)
		if err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if got, err := openSealed(vk, DirID{}, s); err != nil || got != name || IsReserved(s.Entry) {
			t.Errorf("%q: got %q, %v, stored as %q", name, got, err, s.Entry)
		}
	}
}

func TestTargetsRoundTrip(t *testing.T) {
	vk := testVolume(t)
	for n := 1; n <= TargetMax; n += 1 + n/50 {
		target := strings.Repeat("../x", 1000)[:n]
		s, err := vk.SealTarget(target, &[16]byte{byte(n)})
		if err != nil {
			t.Fatal(err)
		}
		got, err := vk.OpenTarget(s)
		if err != nil || got != target || PlainTargetSize(int64(len(s))) != int64(n) || len(s) > targetB64Max {
			t.Fatalf("%d bytes: stored %d, size %d, %v", n, len(s), PlainTargetSize(int64(len(s))), err)
		}
	}
	for target, want := range map[string]error{"": ErrInvalidName, "a\x00b": ErrInvalidName, strings.Repeat("a", TargetMax+1): ErrNameTooLong} {
		if _, err := vk.SealTarget(target, new([16]byte)); !errors.Is(err, want) {
			t.Errorf("%.10q: got %v, want %v", target, err, want)
		}
	}
	for _, n := range []int64{-1, 0, 1, 42, 43} {
		if got := PlainTargetSize(n); got != 0 {
			t.Errorf("PlainTargetSize(%d) = %d", n, got)
		}
	}
}

func TestXattrsRoundTrip(t *testing.T) {
	vk := testVolume(t)
	for _, n := range []int{1, 11, 255} {
		for _, size := range []int{0, 1, 1000, 1007, 1008, 1009, 9000, 65536} {
			name, value := strings.Repeat("n", n), pattern(size+1, size)
			b, err := vk.SealXattr(FileID{1}, name, value)
			if err != nil {
				t.Fatal(err)
			}
			got, v, err := vk.OpenXattr(FileID{1}, b)
			if err != nil || got != name || string(v) != string(value) || len(b) != 17+n+size {
				t.Fatalf("%d, %d: %v", n, size, err)
			}
			if _, _, err := vk.OpenXattr(DirID{1, 2}, b); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("opens for another owner: %v", err)
			}
		}
	}
	for name, want := range map[string]error{"": ErrInvalidName, "a\x00b": ErrInvalidName, strings.Repeat("a", 256): ErrNameTooLong} {
		if _, err := vk.SealXattr(FileID{}, name, nil); !errors.Is(err, want) {
			t.Errorf("%.10q: got %v, want %v", name, err, want)
		}
	}
	if a, b := vk.XattrName(FileID{1}, "x"), vk.XattrName(FileID{2}, "x"); a == b || len(a) != len(XattrPrefix)+22 {
		t.Errorf("names %q and %q", a, b)
	}
}

func TestNamesAreConcurrent(t *testing.T) {
	vk := testVolume(t)
	var wg sync.WaitGroup
	for i := range byte(8) {
		wg.Go(func() {
			for n := 1; n <= NameMax; n += 7 {
				name := strings.Repeat(string('a'+rune(i)), n)
				s, err := vk.SealName(DirID{i}, name)
				if err != nil {
					t.Error(err)
				}
				if got, err := openSealed(vk, DirID{i}, s); got != name || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}
