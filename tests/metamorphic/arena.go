package metamorphic

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"kmsfs/tests/internal/posix"
)

// Contestant is one of the trees to compare.
type Contestant struct {
	Name string
	// Fresh returns an empty tree of the given name; it is called once per run.
	Fresh func(run string) (posix.FS, error)
}

// Arena holds the trees to compare; the first is the one that is right.
type Arena struct {
	Contestants []Contestant
	// Remount, if not nil, takes every tree away and brings it back: the operation "remount". Nothing is open then,
	// and it runs outside of As.
	Remount func() error
	// As, if not nil, makes the calls as somebody else, by calling what it is given.
	As   func(func())
	runs int
}

// Divergence is a difference between the first tree and another.
type Divergence struct {
	Ops  []Op   // what was played, up to the difference
	Name string // of the other tree
	What string
}

// Error says what differs, after which operation.
func (d *Divergence) Error() string {
	return fmt.Sprintf("%s differs after operation %d of %s\n%s", d.Name, len(d.Ops), d.Ops[len(d.Ops)-1], d.What)
}

// Run plays ops on every tree and compares every answer, and the trees at every remount and at the end. The error is a
// *Divergence where trees differ.
func (a *Arena) Run(ops []Op) (err error) {
	if a.As == nil {
		return a.run(ops)
	}
	a.As(func() { err = a.run(ops) })
	return err
}

func (a *Arena) run(ops []Op) error {
	a.runs++
	players := make([]*player, len(a.Contestants))
	for i, c := range a.Contestants {
		fs, err := c.Fresh(fmt.Sprintf("run-%d", a.runs))
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		players[i] = &player{fs: fs}
		defer players[i].closeAll()
	}
	for i, op := range ops {
		if op.Do == "remount" {
			if err := a.remount(players, ops[:i+1]); err != nil {
				return err
			}
			continue
		}
		if err := a.step(players, ops[:i+1]); err != nil {
			return err
		}
	}
	if len(ops) == 0 {
		return nil
	}
	return a.trees(players, ops)
}

// step plays the last of ops.
func (a *Arena) step(players []*player, ops []Op) error {
	op := ops[len(ops)-1]
	want := players[0].play(op)
	for i, p := range players[1:] {
		got := p.play(op)
		if got.Text == want.Text && bytes.Equal(got.Data, want.Data) {
			continue
		}
		what := fmt.Sprintf("want %s\ngot  %s", want.Text, got.Text)
		if at := firstDifference(want.Data, got.Data); at >= 0 {
			what += fmt.Sprintf("\nthe bytes differ from %d on: want %s, got %s", at, peek(want.Data, at), peek(got.Data, at))
		}
		return a.diverged(i+1, ops, what)
	}
	return nil
}

// firstDifference is where a and b begin to differ, -1 if they do not.
func firstDifference(a, b []byte) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return -1
}

func peek(b []byte, at int) string {
	at = min(at, len(b))
	return fmt.Sprintf("%q of %d", b[at:min(at+40, len(b))], len(b))
}

// remount closes what is open, compares the trees, remounts and compares again.
func (a *Arena) remount(players []*player, ops []Op) error {
	for i, p := range players {
		if err := p.closeAll(); err != nil {
			return a.diverged(i, ops, fmt.Sprintf("close: %v", err))
		}
	}
	if err := a.trees(players, ops); err != nil || a.Remount == nil {
		return err
	}
	remounted := make(chan error)
	go func() { remounted <- a.Remount() }()
	if err := <-remounted; err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	return a.trees(players, ops)
}

// trees compares the trees.
func (a *Arena) trees(players []*player, ops []Op) error {
	var want posix.Tree
	for i, p := range players {
		got, err := posix.Snapshot(p.fs, posix.Options{})
		if err != nil {
			return a.diverged(i, ops, fmt.Sprintf("reading the tree: %v", err))
		}
		if i == 0 {
			want = got
		} else if d := want.Diff(got); len(d) > 0 {
			return a.diverged(i, ops, "the trees differ:\n"+strings.Join(d, "\n"))
		}
	}
	return nil
}

func (a *Arena) diverged(i int, ops []Op, what string) error {
	return &Divergence{Ops: slices.Clone(ops), Name: a.Contestants[i].Name, What: what}
}
