package faults_test

import (
	"errors"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
)

// Every method of the interfaces asks the hook, under its own name, and does not reach the wrapped one on an error.
func TestEveryMethodAsks(t *testing.T) {
	var asked faults.Call
	d := faults.Wrap(nil, func(op faults.Op) error { asked = op.Call; return unix.EIO })
	hooked := faults.Wrap(opener{}, func(op faults.Op) error {
		asked = op.Call
		if op.Call == faults.Tmpfile {
			return nil
		}
		return unix.EIO
	})
	f, err := hooked.Tmpfile(0)
	if err != nil {
		t.Fatal(err)
	}
	for iface, v := range map[reflect.Type]any{reflect.TypeFor[backing.Dir](): d, reflect.TypeFor[backing.File](): f} {
		for i := range iface.NumMethod() {
			m := reflect.ValueOf(v).MethodByName(iface.Method(i).Name)
			args := make([]reflect.Value, m.Type().NumIn())
			for j := range args {
				args[j] = reflect.Zero(m.Type().In(j))
			}
			asked = ""
			passed := func() (passed bool) {
				defer func() { passed = recover() != nil }() // what passes calls a method of nil
				out := m.Call(args)
				if err, _ := out[len(out)-1].Interface().(error); !errors.Is(err, unix.EIO) {
					t.Errorf("%s: got %v, want EIO", iface.Method(i).Name, err)
				}
				return false
			}()
			name := iface.Method(i).Name
			if string(asked) != name {
				t.Errorf("%s.%s asks about %q", iface, name, asked)
			}
			if always := name == "Close" || name == "Unlock" || name == "WillNeed"; passed != always {
				t.Errorf("%s.%s: passed %v", iface, name, passed)
			}
		}
	}
}

// opener is a Dir that only makes files, whose methods panic.
type opener struct{ backing.Dir }

func (opener) Tmpfile(uint32) (backing.File, error) { return struct{ backing.File }{}, nil }

func TestCounter(t *testing.T) {
	boom := errors.New("boom")
	c := faults.Nth(1, boom, faults.Op.Changes)
	var got []error
	for _, call := range []faults.Call{faults.StatAt, faults.Mkdir, faults.Stat, faults.Mkdir, faults.Mkdir} {
		got = append(got, c.Hook(faults.Op{Call: call}))
	}
	if want := []error{nil, nil, nil, boom, nil}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if c.Count() != 3 {
		t.Errorf("counted %d, want 3", c.Count())
	}
	none := new(faults.Counter)
	if err := none.Hook(faults.Op{}); err != nil || none.Count() != 1 {
		t.Errorf("the zero Counter: %v, %d", err, none.Count())
	}
}

func TestLimit(t *testing.T) {
	full := unix.ENOSPC
	for _, c := range []struct {
		err     error
		n, want int64
		wantErr error
	}{
		{nil, 10, 10, nil},
		{full, 10, 0, full},
		{&faults.Partial{N: 4, Err: full}, 10, 4, full},
		{&faults.Partial{N: 40, Err: full}, 10, 10, full},
		{&faults.Partial{N: -1, Err: full}, 10, 0, full},
	} {
		if n, err := faults.Limit(c.err, c.n); n != c.want || !errors.Is(err, c.wantErr) {
			t.Errorf("Limit(%v, %d) = %d, %v", c.err, c.n, n, err)
		}
	}
}
