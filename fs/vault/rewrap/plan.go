package rewrap

import (
	"context"
	"fmt"
	"slices"
	"time"

	"kmsfs/envelope"
	"kmsfs/keysource"
)

// cmk is a CMK as DescribeKey knows it.
type cmk struct {
	arn      string
	material string // current; empty where the keysource does not tell
	err      error  // why it is not known
}

// has tells whether w is by this CMK and its current material.
func (c cmk) has(w envelope.Wrapping) bool {
	return w.KeyARN == c.arn && (c.material == "" || w.KeyMaterialID == c.material)
}

// describe asks for a CMK, once in a pass.
func (r *run) describe(ctx context.Context, key keysource.KeyRef) cmk {
	r.describing.Lock()
	defer r.describing.Unlock()
	if c, ok := r.cmks[key]; ok {
		return c
	}
	began := time.Now()
	var md keysource.KeyMetadata
	err := r.patiently(ctx, func(ctx context.Context) (err error) {
		md, err = r.ks.DescribeKey(ctx, key)
		return err
	})
	r.counts.describes.Add(1)
	r.callTime = time.Since(began)
	c := cmk{arn: md.ARN, material: md.CurrentKeyMaterialID, err: err}
	if err == nil && !md.Enabled {
		code := keysource.CodeInvalidState
		if md.KeyState == keysource.KeyStateDisabled {
			code = keysource.CodeDisabled
		}
		c.err = keysource.NewError("DescribeKey", md.ARN, code, md.ARN+" is "+string(md.KeyState))
	}
	r.cmks[key] = c
	if err == nil {
		r.cmks[keysource.KeyRef(c.arn)] = c
	}
	return c
}

// resolve finds the CMKs that the options name. What the run is to move to must be usable.
func (r *run) resolve(ctx context.Context) error {
	for _, key := range append(slices.Clone(r.o.Add), r.base()) {
		if c := r.describe(ctx, key); c.err != nil {
			return c.err
		}
	}
	for _, key := range r.o.Remove {
		arn := r.arnOf(ctx, key)
		if keysource.KeyRef(arn).Matches(r.describe(ctx, r.base()).arn) {
			return keysource.NewError("", string(key), keysource.CodeValidation,
				fmt.Sprintf("%s is the CMK that keys are to be under: its wrapping cannot be removed; move them first, with --to", key))
		}
		r.remove = append(r.remove, arn)
	}
	if r.o.From != "" {
		r.from = r.o.From
		if !keysource.IsKeyMaterialID(r.from) {
			r.from = r.arnOf(ctx, keysource.KeyRef(r.from))
		}
	}
	return nil
}

// arnOf is the ARN of a CMK that may be gone: it is then as it was named.
func (r *run) arnOf(ctx context.Context, key keysource.KeyRef) string {
	if c := r.describe(ctx, key); c.arn != "" {
		return c.arn
	}
	return string(key)
}

// is tells whether a CMK, perhaps named by its id alone, is that of w.
func is(key string, w envelope.Wrapping) bool { return keysource.KeyRef(key).Matches(w.KeyARN) }

// chosen tells whether Options.From lets w be changed.
func (r *run) chosen(w envelope.Wrapping) bool {
	return r.from == "" || keysource.IsKeyMaterialID(r.from) && w.KeyMaterialID == r.from || is(r.from, w)
}

// goal is the CMK that the first wrapping of a data key is to be of.
func (r *run) goal(loc envelope.Locator, rec *envelope.Record) keysource.KeyRef {
	switch {
	case r.o.To != "":
		return r.o.To
	case r.o.Target != nil:
		if key := r.o.Target(loc, rec.ID); key != "" {
			return key
		}
	case r.zones != nil:
		return r.zones.goal(rec, r.base())
	}
	return r.base()
}

// base is the CMK that the volume key, and what is in no zone, is to be under.
func (r *run) base() keysource.KeyRef {
	if r.o.To != "" {
		return r.o.To
	}
	return keysource.KeyRef(r.cfg.Key)
}

// step is one wrapping to be made.
type step struct {
	from int // index of the wrapping to start from, before others are tried
	to   cmk
}

// plan is what to do with the wrappings of one key.
type plan struct {
	keep  []envelope.Wrapping // as they stand, in the place of those without a step
	steps map[int]step        // by place in the new wrappings
	ws    []envelope.Wrapping // the old ones
}

// plan decides about the wrappings of a key; nil: nothing is to be done. An error is about this key alone.
func (r *run) plan(ctx context.Context, ws []envelope.Wrapping, goal keysource.KeyRef) (*plan, error) {
	p := &plan{steps: map[int]step{}, ws: ws}
	changed := false
	have := func(arn string) bool {
		return slices.ContainsFunc(p.keep, func(w envelope.Wrapping) bool { return w.KeyARN == arn })
	}
	put := func(i int, to cmk) {
		p.steps[len(p.keep)] = step{from: i, to: to}
		p.keep = append(p.keep, envelope.Wrapping{KeyARN: to.arn, ContextVersion: envelope.ContextVersion})
		changed = true
	}
	first := true
	for i, w := range ws {
		if w.Kind != envelope.KindKeysource {
			continue
		}
		removed := slices.ContainsFunc(r.remove, func(key string) bool { return is(key, w) })
		to := keysource.KeyRef(w.KeyARN)
		switch {
		case first, r.from != "" && r.o.To != "" && r.chosen(w):
			to = goal
		}
		move := r.chosen(w)
		if first {
			move = move || removed
		} else if removed {
			changed = true
			continue
		}
		first = false
		if !move {
			if !have(w.KeyARN) {
				p.keep = append(p.keep, w)
			}
			continue
		}
		t := r.describe(ctx, to)
		switch {
		case t.err != nil && to != keysource.KeyRef(w.KeyARN):
			return nil, t.err
		case t.err != nil: // a further wrapping of a CMK that cannot be used now stays
			p.keep = append(p.keep, w)
		case removed && t.arn == w.KeyARN:
			return nil, keysource.NewError("", w.KeyARN, keysource.CodeValidation, "its wrapping cannot be removed: it is the CMK that the key is to be under")
		case have(t.arn):
			changed = true // it is there already
		case t.has(w) && !r.o.Force:
			p.keep = append(p.keep, w)
		default:
			put(i, t)
		}
	}
	for _, key := range r.o.Add {
		if t := r.describe(ctx, key); t.err != nil {
			return nil, t.err
		} else if !have(t.arn) {
			put(0, t)
		}
	}
	for _, w := range ws { // of other kinds, which stand behind
		if w.Kind != envelope.KindKeysource {
			p.keep = append(p.keep, w)
		}
	}
	switch {
	case !changed:
		return nil, nil
	case len(p.keep) == 0:
		return nil, fmt.Errorf("%w: no wrapping that this version knows", envelope.ErrUnsupported)
	case len(p.keep) > envelope.WrappingsMax:
		return nil, keysource.NewError("", "", keysource.CodeLimitExceeded, fmt.Sprintf("a key has at most %d wrappings", envelope.WrappingsMax))
	}
	return p, nil
}
