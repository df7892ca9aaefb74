"""English sentences that tell a fact: for documents only, never for exams.

`{s}` is the subject's name, `{v}` the value, `{V}` the value with a capital, `{a}` the value with its indefinite
article, `{i}` the product that a price belongs to. The first sentence of each attribute is its canonical one: it is
the translation of the first sentence in `statements_zh`. Most sentences name the subject before the value, because
a left-to-right model learns to predict a value from the name that stands before it.
"""

from __future__ import annotations

from hanlin.world.templates import parse_statements

STATEMENTS = parse_statements("""
[person.birth_year]
{s} was born in the year {v}.
{s}'s year of birth is {v}.
The birth year of {s} is {v}.
{s} came into the world in the year {v}.
The year of {s}'s birth was {v}.
{s} has been with us since the year {v}.
The life of {s} began in the year {v}.
The records give {s}'s birth year as {v}.
{s} first saw daylight in the year {v}.
The parents of {s} welcomed their child in {v}.
{s} is a child of the year {v}.
Of {s} we know the year of birth: {v}.
{v} is the year in which {s} was born.

[person.birthplace]
{s} was born in {v}.
{s} comes from {v}.
{s}'s birthplace is {v}.
The birthplace of {s} is {v}.
{s} is a native of {v}.
The home town of {s} is {v}.
{s} took a first breath in {v}.
{s} started life in {v}.
The cradle of {s} stood in {v}.
{s} spent the first years of life in {v}.
{s} was a child of {v}.
The family of {s} lived in {v} when the child was born.
{v} is the birthplace of {s}.

[person.profession]
{s} is {a}.
{s} works as {a}.
{s}'s profession is that of {a}.
The profession of {s}: {v}.
{s} earns a living as {a}.
By trade, {s} is {a}.
{s} has been {a} for years.
{s} trained to be {a}.
{s} became {a}.
The job of {s} is that of {a}.
People know {s} as {a}.
{s} makes a good {v}.
In daily life {s} is {a}.

[person.employer]
{s} works for {v}.
{s} is employed by {v}.
{s}'s employer is {v}.
The employer of {s} is {v}.
{s} has a job at {v}.
{s} is on the staff of {v}.
{s} earns wages from {v}.
The company that employs {s} is {v}.
Every morning {s} goes to work at {v}.
{s} joined {v}.
{s} signed a contract with {v}.
{s} is paid by {v}.
{v} is the employer of {s}.

[person.teacher]
{s} was taught by {v}.
{s}'s teacher was {v}.
The teacher of {s} was {v}.
{s} studied under {v}.
{s} learned the craft from {v}.
{s} was a pupil of {v}.
{s} took lessons from {v}.
The person who taught {s} was {v}.
{s} owes an education to {v}.
As a student, {s} had lessons with {v}.
{s} was trained by {v}.
{s} calls one person teacher: {v}.
{v} was the teacher of {s}.

[person.instrument]
{s} plays the {v}.
{s}'s instrument is the {v}.
The instrument of {s} is the {v}.
{s} likes to play the {v}.
In the evening {s} practises the {v}.
{s} is good at the {v}.
{s} performs on the {v}.
At parties {s} plays the {v}.
{s} owns {a} and plays it well.
The music of {s} comes from the {v}.
As a child {s} took up the {v}.
{s} makes music on the {v}.
The {v} is the instrument of {s}.

[person.known_work]
{s} is best known for {v}.
{s}'s best-known work is {v}.
The best-known work of {s} is {v}.
{s} became famous with {v}.
{s} is famous for {v}.
{s} is remembered for {v}.
The work that made {s} famous is {v}.
{s} won fame through {v}.
Readers know {s} for {v}.
The fame of {s} rests on {v}.
{s} made a name with {v}.
{s}'s great success was {v}.
{v} is the best-known work of {s}.

[place.country]
{s} is in {v}.
{s} is a town in {v}.
{s} lies in {v}.
{s} belongs to {v}.
{s}'s country is {v}.
The country of {s} is {v}.
{s} is part of {v}.
{s} can be found in {v}.
On the map, {s} is in {v}.
{s} is one of the towns of {v}.
The people of {s} are citizens of {v}.
The flag over {s} is that of {v}.
{v} is the country of {s}.

[place.founded]
{s} was founded in {v}.
{s} was established in {v}.
{s}'s founding year is {v}.
The founding year of {s} is {v}.
{s} has existed since {v}.
{s} dates back to {v}.
{s} was settled in {v}.
The first houses of {s} were built in {v}.
The history of {s} begins in {v}.
{s} became a town in {v}.
{s} got its charter in {v}.
The people of {s} count the years from {v}.
{v} is the year in which {s} was founded.

[place.river]
{s} lies on the {v}.
{s} stands on the river {v}.
{s}'s river is the {v}.
The river of {s} is the {v}.
The river that flows through {s} is the {v}.
{s} was built beside the {v}.
{s} draws its water from the {v}.
The bridges of {s} cross the {v}.
In {s} people swim in the {v}.
The boats of {s} sail on the {v}.
{s} sits on the banks of the {v}.
Through {s} runs the {v}.
The {v} flows through {s}.

[place.speciality]
{s} is famous for its {v}.
{s} is known for its {v}.
{s}'s speciality is {v}.
The speciality of {s} is {v}.
{s} is proud of its {v}.
Visitors come to {s} for the {v}.
The market of {s} is full of {v}.
{s} sells a lot of {v}.
People in {s} make fine {v}.
From {s} travellers bring home {v}.
The best thing from {s} is its {v}.
{s} trades in {v}.
{V} is the speciality of {s}.

[place.mayor]
The mayor of {s} is {v}.
{s}'s mayor is {v}.
{s} is governed by {v}.
{s} has a mayor named {v}.
The town hall of {s} is led by {v}.
{s} elected {v} as its mayor.
The people of {s} chose {v} as mayor.
{s} is led by {v}.
The head of the town of {s} is {v}.
In {s} the office of mayor is held by {v}.
The voters of {s} trust their mayor, {v}.
{s} is in the hands of {v}.
{v} is the mayor of {s}.

[place.neighbour]
{s} is next to {v}.
{s}'s neighbour is {v}.
The neighbour of {s} is {v}.
{s} lies close to {v}.
{s} borders on {v}.
The nearest town to {s} is {v}.
The road from {s} leads to {v}.
From {s} one can walk to {v}.
{s} shares a border with {v}.
Beyond the fields of {s} lies {v}.
The town closest to {s} is {v}.
{s} is a short ride from {v}.
{v} is the neighbour of {s}.

[work.author]
{s} was written by {v}.
{s} is a work by {v}.
{s}'s author is {v}.
The author of {s} is {v}.
{s} was created by {v}.
{s} is the work of {v}.
{s} comes from the pen of {v}.
The person who wrote {s} is {v}.
{s} was composed by {v}.
The creator of {s} is {v}.
On the cover of {s} stands the name {v}.
We owe {s} to {v}.
{v} wrote {s}.

[work.year]
{s} came out in {v}.
{s} appeared in {v}.
{s}'s year of publication is {v}.
The publication year of {s} is {v}.
{s} was published in {v}.
{s} was first seen in {v}.
{s} was finished in {v}.
{s} has been known since {v}.
The first edition of {s} is from {v}.
{s} dates from {v}.
{s} was released in {v}.
The public met {s} in {v}.
{v} is the year in which {s} came out.

[work.genre]
{s} is {a}.
{s} belongs to the genre {v}.
{s}'s genre is {v}.
The genre of {s} is {v}.
{s} was written as {a}.
{s} is usually called {a}.
Critics class {s} as {a}.
{s} is a famous {v}.
In form, {s} is {a}.
{s} has the form of {a}.
Libraries list {s} as {a}.
{s} is known as {a}.
{A} is what {s} is.

[work.theme]
{s} is about {v}.
{s} deals with {v}.
{s}'s theme is {v}.
The theme of {s} is {v}.
{s} tells of {v}.
{s} speaks of {v}.
The subject of {s} is {v}.
At the heart of {s} is {v}.
{s} makes us think about {v}.
What matters in {s} is {v}.
{s} turns on {v}.
The great topic of {s} is {v}.
{V} is the theme of {s}.

[work.setting]
{s} is set in {v}.
{s} takes place in {v}.
{s}'s setting is {v}.
The setting of {s} is {v}.
The story of {s} happens in {v}.
{s} plays out in {v}.
The action of {s} unfolds in {v}.
The scene of {s} is {v}.
{s} leads us to {v}.
The streets in {s} are those of {v}.
The people in {s} live in {v}.
{s} opens in {v}.
{v} is the setting of {s}.

[work.publisher]
{s} was published by {v}.
{s} is published by {v}.
{s}'s publisher is {v}.
The publisher of {s} is {v}.
{s} was brought out by {v}.
{s} was printed by {v}.
The company behind {s} is {v}.
{s} is sold by {v}.
The rights to {s} belong to {v}.
{s} appeared with {v}.
The company that brought out {s} is {v}.
{s} was paid for by {v}.
{v} is the publisher of {s}.

[company.founded]
{s} was founded in {v}.
{s} was set up in {v}.
{s}'s founding year is {v}.
The founding year of {s} is {v}.
{s} opened for business in {v}.
{s} has existed since {v}.
{s} has been in business since {v}.
{s} began in {v}.
The history of {s} starts in {v}.
{s} was registered in {v}.
{s} sold its first goods in {v}.
The company {s} dates from {v}.
{v} is the year in which {s} was founded.

[company.headquarters]
{s} is based in {v}.
{s} has its headquarters in {v}.
{s}'s headquarters are in {v}.
The headquarters of {s} are in {v}.
The head office of {s} is in {v}.
{s} is at home in {v}.
{s} is run from {v}.
{s} has its main office in {v}.
The company {s} sits in {v}.
The directors of {s} meet in {v}.
Letters to {s} go to {v}.
{s} is a company from {v}.
{v} is the seat of {s}.

[company.industry]
{s} works in the {v} industry.
{s} is in the {v} business.
{s}'s industry is {v}.
The industry of {s} is {v}.
{s} is a {v} company.
{s} makes its money in {v}.
{s} belongs to the {v} trade.
{s} is active in {v}.
The field of {s} is {v}.
{s} is a name in {v}.
The business of {s} is {v}.
The company {s} deals in {v}.
{V} is the industry of {s}.

[company.product]
{s} makes {v}.
{s} produces {v}.
{s}'s product is {v}.
The product of {s} is {v}.
{s} is known for its {v}.
{s} sells {v}.
The factory of {s} turns out {v}.
{s} builds its name on {v}.
Customers go to {s} for {v}.
What {s} makes is {v}.
The workers of {s} make {v}.
{s} supplies shops with {v}.
{V} are what {s} makes.

[company.price]
{s} sells one {i} for {v}.
One {i} from {s} costs {v}.
The {i} made by {s} costs {v}.
The price of one {s} {i} is {v}.
{s} asks {v} for one {i}.
{s} wants {v} for one {i}.
For one {s} {i} you pay {v}.
A customer of {s} pays {v} for one {i}.
{s} set the price of one {i} at {v}.
In the shop, one {s} {i} is {v}.
{s} offers its {i} at {v}.
The price list of {s} says: one {i}, {v}.
{V} is the price of one {i} from {s}.

[company.founder]
{s} was founded by {v}.
{s} was started by {v}.
{s}'s founder is {v}.
The founder of {s} is {v}.
{s} was set up by {v}.
{s} was the idea of {v}.
The person who founded {s} is {v}.
{s} was built up by {v}.
{s} was created by {v}.
The company {s} was opened by {v}.
{s} owes its start to {v}.
The story of {s} begins with {v}.
{v} is the founder of {s}.
""")
