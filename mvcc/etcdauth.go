package mvcc

import (
	"bytes"

	"go.etcd.io/bbolt"

	"holdfast/auth"
	"holdfast/kv"
)

// policy takes over users, with the hashes of their passwords, roles, and whether authentication is on. Each goes through
// the change that would make it here, so that what this version would refuse is refused.
func (b *etcdImport) policy() error {
	p := (*auth.Policy)(nil)
	change := func(op kv.SetAuth) error {
		next, _, err := p.Change(op)
		if err != nil {
			return kv.Errorf(kv.CodeOf(err), "users and roles of the etcd are not taken over: user %q, role %q: %s; mend that in etcd first, or restore without them", op.User, op.Role, err.Detail)
		}
		p = next
		return nil
	}
	if err := b.roles(change); err != nil {
		return err
	}
	if err := b.usersOf(change); err != nil {
		return err
	}
	if state := b.src.Bucket(etcdAuth); state != nil && bytes.Equal(state.Get(etcdAuthEnabled), []byte{1}) {
		if err := change(kv.SetAuth{Do: kv.AuthEnable}); err != nil {
			return err
		}
		b.enabled = true
	}
	sides := b.tx.Bucket(bucketSide)
	for _, e := range p.Entries(true) {
		key := []byte(string(sidePolicy) + e.Key)
		if err := sides.Put(key, sealSide(key, e.Value)); err != nil {
			return err
		}
	}
	return nil
}

// roles reads authpb.Role: 1 name, 2 permissions, each an authpb.Permission: 1 kind (0 read, 1 write, 2 both), 2 key, 3 end.
func (b *etcdImport) roles(change func(kv.SetAuth) error) error {
	return eachMessage(b.src.Bucket(etcdRoles), func(fields []protoField) error {
		name := string(bytesOf(fields, 1))
		if err := change(kv.SetAuth{Do: kv.AuthAddRole, Role: name}); err != nil {
			return err
		}
		for _, f := range fields {
			if f.number != 2 {
				continue
			}
			perm, err := fieldsOf(f.bytes)
			if err != nil {
				return err
			}
			kind := uintOf(perm, 1)
			if kind > uint64(kv.PermitReadWrite) {
				return corruptEtcd("the role %q has a permission of kind %d", name, kind)
			}
			if err := change(kv.SetAuth{Do: kv.AuthGrantPermission, Role: name, Key: bytes.Clone(bytesOf(perm, 2)), End: bytes.Clone(bytesOf(perm, 3)),
				Permission: kv.Permission(kind)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// usersOf reads authpb.User: 1 name, 2 bcrypt hash, 3 roles, 4 options: 1 no password.
func (b *etcdImport) usersOf(change func(kv.SetAuth) error) error {
	return eachMessage(b.src.Bucket(etcdUsers), func(fields []protoField) error {
		name := string(bytesOf(fields, 1))
		options, err := fieldsOf(bytesOf(fields, 4))
		if err != nil {
			return err
		}
		add := kv.SetAuth{Do: kv.AuthAddUser, User: name, NoPassword: uintOf(options, 1) != 0, Secret: bytes.Clone(bytesOf(fields, 2))}
		if err := change(add); err != nil {
			return err
		}
		b.users++
		for _, f := range fields {
			if f.number != 3 {
				continue
			}
			if err := change(kv.SetAuth{Do: kv.AuthGrantRole, User: name, Role: string(f.bytes)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachMessage calls f with the fields of each value of a bucket; nil is an empty one.
func eachMessage(b *bbolt.Bucket, f func([]protoField) error) error {
	if b == nil {
		return nil
	}
	return b.ForEach(func(_, v []byte) error {
		fields, err := fieldsOf(v)
		if err != nil {
			return err
		}
		return f(fields)
	})
}

type protoField struct {
	number, value uint64
	bytes         []byte
}

func fieldsOf(b []byte) (all []protoField, err error) {
	err = protoFields(b, func(number, value uint64, bytes []byte) { all = append(all, protoField{number, value, bytes}) })
	return all, err
}

func bytesOf(fields []protoField, number uint64) (last []byte) {
	for _, f := range fields {
		if f.number == number {
			last = f.bytes
		}
	}
	return last
}

func uintOf(fields []protoField, number uint64) (last uint64) {
	for _, f := range fields {
		if f.number == number {
			last = f.value
		}
	}
	return last
}
