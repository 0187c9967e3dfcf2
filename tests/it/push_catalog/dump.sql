-- Everything the catalogues of a database say about relations, functions and publications of its own and what is attached
-- to them: one fact a line, sorted, without oids, positions of sequences, and backups of ours.
WITH backup AS (
    SELECT objoid AS oid FROM pg_description
     WHERE classoid = 'pg_class'::regclass AND objsubid = 0 AND starts_with(description, '{"tool":"racealpha backup"')),
  relation AS (
    SELECT c.*, format('%I.%I', n.nspname, c.relname) AS title FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema' AND c.relkind <> 'i' AND c.oid NOT IN (SELECT oid FROM backup)
       AND NOT EXISTS (SELECT FROM pg_depend d JOIN backup b ON b.oid = d.refobjid WHERE d.classid = 'pg_class'::regclass
                        AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))),
  function AS (
    SELECT p.*, p.oid::regprocedure::text AS title FROM pg_proc p WHERE p.oid >= 16384
     AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')),
  -- Names of internal triggers and TOAST tables end in oids.
  dependency AS (
    SELECT regexp_replace(pg_describe_object(classid, objid, objsubid), '(RI|Unique|PK)_ConstraintTrigger(_.)?_\d+', 'internal \1\2') AS object,
           deptype, pg_describe_object(refclassid, refobjid, refobjsubid) AS of
      FROM pg_depend WHERE refobjid >= 16384)
SELECT fact FROM (
    SELECT format('relation %s kind %s owner %s persistence %s rls %s force %s identity %s options %s toast %s populated %s tablespace %s method %s',
             title, relkind, relowner::regrole, relpersistence, relrowsecurity, relforcerowsecurity, relreplident,
             (SELECT array_agg(o ORDER BY o) FROM unnest(reloptions) o),
             (SELECT array_agg(o ORDER BY o) FROM pg_class t, unnest(t.reloptions) o WHERE t.oid = r.reltoastrelid),
             relispopulated, reltablespace, relam) AS fact FROM relation r
  UNION ALL
    SELECT format('column %s of %s place %s type %s notnull %s default %s identity %s generated %s collation %s storage %s compression %s target %s options %s',
             attname, title, row_number() OVER (PARTITION BY attrelid ORDER BY attnum), format_type(atttypid, atttypmod), attnotnull,
             (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum), attidentity,
             attgenerated, attcollation::regcollation, attstorage, attcompression, attstattarget,
             (SELECT array_agg(o ORDER BY o) FROM unnest(attoptions) o WHERE NOT starts_with(o, 'pg_')))
      FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid WHERE attnum > 0 AND NOT attisdropped
  UNION ALL
    SELECT format('privilege %s on %s to %s by %s grantable %s', e.privilege_type, title, e.grantee::regrole, e.grantor::regrole, e.is_grantable)
      FROM relation r, aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))) e
  UNION ALL
    SELECT format('privilege %s on column %s of %s to %s by %s grantable %s', e.privilege_type, attname, title, e.grantee::regrole, e.grantor::regrole, e.is_grantable)
      FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid, aclexplode(a.attacl) e
  UNION ALL
    SELECT format('privilege %s on %s to %s by %s grantable %s', e.privilege_type, title, e.grantee::regrole, e.grantor::regrole, e.is_grantable)
      FROM function f, aclexplode(coalesce(proacl, acldefault('f', proowner))) e
  UNION ALL
    SELECT format('constraint %s on %s: %s valid %s deferrable %s %s local %s noinherit %s index %s', conname, title, pg_get_constraintdef(k.oid), convalidated,
             condeferrable, condeferred, conislocal, connoinherit, nullif(conindid, 0)::regclass)
      FROM relation r JOIN pg_constraint k ON k.conrelid = r.oid
  UNION ALL
    SELECT format('index %s options %s unique %s primary %s immediate %s valid %s clustered %s identity %s tablespace %s targets %s', pg_get_indexdef(indexrelid), i.reloptions,
             indisunique, indisprimary, indimmediate, indisvalid, indisclustered, indisreplident, i.reltablespace,
             (SELECT array_agg(attstattarget ORDER BY attnum) FROM pg_attribute WHERE attrelid = indexrelid))
      FROM relation r JOIN pg_index x ON x.indrelid = r.oid JOIN pg_class i ON i.oid = x.indexrelid
  UNION ALL
    SELECT format('trigger of %s enabled %s: %s', title, tgenabled,
             CASE WHEN tgisinternal THEN format('internal of %s calling %s', (SELECT conname FROM pg_constraint WHERE oid = tgconstraint), tgfoid::regproc)
                  ELSE pg_get_triggerdef(t.oid) END)
      FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid
  UNION ALL
    SELECT format('policy %s on %s permissive %s command %s roles %s using %s check %s', polname, title, polpermissive, polcmd,
             (SELECT array_agg(p::regrole::text ORDER BY p::regrole::text) FROM unnest(polroles) p), pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
      FROM relation r JOIN pg_policy ON polrelid = r.oid
  UNION ALL
    SELECT format('rule of %s enabled %s: %s', title, ev_enabled, pg_get_ruledef(w.oid)) FROM relation r JOIN pg_rewrite w ON w.ev_class = r.oid
  UNION ALL
    SELECT format('view %s: %s', title, pg_get_viewdef(oid)) FROM relation WHERE relkind IN ('v', 'm')
  UNION ALL
    -- Whatever keeps its identity here keeps what is known of it elsewhere.
    SELECT format('identity of %s: %s', title, oid) FROM relation WHERE relkind = 'v'
  UNION ALL
    SELECT format('statistics %s target %s owner %s', pg_get_statisticsobjdef(s.oid), stxstattarget, stxowner::regrole)
      FROM relation r JOIN pg_statistic_ext s ON s.stxrelid = r.oid
  UNION ALL
    SELECT format('sequence %s as %s start %s by %s from %s to %s cache %s cycle %s', title, format_type(seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle)
      FROM relation r JOIN pg_sequence ON seqrelid = r.oid
  UNION ALL
    SELECT format('function owner %s: %s', proowner::regrole, pg_get_functiondef(oid)) FROM function WHERE prokind <> 'a'
  UNION ALL
    SELECT format('aggregate %s owner %s', title, proowner::regrole) FROM function WHERE prokind = 'a'
  UNION ALL
    SELECT format('publication %s', to_jsonb(p) - 'oid' - 'pubowner' || jsonb_build_object('owner', pubowner::regrole)) FROM pg_publication p
  UNION ALL
    SELECT format('published %s', to_jsonb(t)) FROM pg_publication_tables t WHERE NOT EXISTS
      (SELECT FROM backup b WHERE b.oid = format('%I.%I', t.schemaname, t.tablename)::regclass)
  UNION ALL
    SELECT format('inherits %s from %s', inhrelid::regclass, inhparent::regclass) FROM pg_inherits
  UNION ALL
    SELECT format('label of %s: %s', pg_describe_object(classoid, objoid, objsubid), label) FROM pg_seclabel
  UNION ALL
    SELECT format('comment on %s: %s', pg_describe_object(classoid, objoid, objsubid), description) FROM pg_description
     WHERE objoid >= 16384 AND pg_describe_object(classoid, objoid, objsubid) NOT LIKE '%\_bk\_%' AND NOT EXISTS
       (SELECT FROM backup b JOIN pg_class c ON c.oid = b.oid WHERE strpos(pg_describe_object(classoid, objoid, objsubid), quote_ident(c.relname)) > 0)
  UNION ALL
    SELECT format('%s depends %s on %s', object, deptype, of) FROM dependency d
     WHERE object NOT LIKE '%pg\_toast%' AND object NOT LIKE '%\_bk\_%' AND of NOT LIKE '%\_bk\_%'
       AND NOT EXISTS (SELECT FROM backup b JOIN pg_class c ON c.oid = b.oid WHERE strpos(object, quote_ident(c.relname)) > 0 OR strpos(of, quote_ident(c.relname)) > 0)
) facts ORDER BY fact COLLATE "C"
